"""A datagram next to each MPI message, so that an idle rank can sleep until it has something to do.

A blocked MPI call spins a whole core and a poll that sleeps costs latency or time (ADR 0003), but a
process blocked in `select` costs nothing and wakes at once. So each send also rings the receiver's UDP socket. This
only ever shortens a sleep: datagrams that are lost, doubled, late, forged or blocked change the latency and nothing
else, because the receiver still polls MPI and trusts nothing that a ring says.

A ring carries how many messages its sender has sent to this rank so far. Compared with how many have been received,
it tells apart a ring that is news and one whose message was polled before anybody slept.
"""

from __future__ import annotations

import ipaddress
import json
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import psutil

from mpispec.transport.base import SharedError
from mpispec.transport.environment import host_identity, hostname

VARIABLE = "MPISPEC_DOORBELL"
"""Environment variable: `off`, or the address, network or interface to listen on."""
LOOPBACK = "127.0.0.1"
SETUP_LIMIT = 16384
"""Bytes that one rank may say about itself while the doorbells are set up."""

_COUNT = struct.Struct("<Q")
_DRAIN_LIMIT = 64
_GREETING_SECONDS = 2.0
_GREETING_PAUSE = 0.05
_STRANGE_PEER = "A rank describes itself in an unknown form; install the same mpispec on every host."

Allgather = Callable[[bytes, int], list[bytes]]


class Interface(NamedTuple):
    """One address of this host."""

    name: str
    address: str
    netmask: str


class Host(NamedTuple):
    """What a rank sends the others about where it runs."""

    identity: str
    interfaces: tuple[Interface, ...]


class Rings(NamedTuple):
    """What one drain of the socket found."""

    news: bool
    """A peer has announced a message that has not been received yet."""
    strange: bool
    """Someone who is no peer has sent something."""


class Doorbell:
    """The socket of one rank and the addresses of all."""

    def __init__(self, own: socket.socket, addresses: Sequence[tuple[str, int]]) -> None:
        """Take over a bound, non-blocking UDP socket; `addresses` are those of all ranks in order."""
        self._socket = own
        self._addresses = tuple(addresses)
        self._rank_at = {address: rank for rank, address in enumerate(self._addresses)}
        self.announced = [0] * len(self._addresses)
        """For each rank, how many messages it says it has sent to us."""
        self.heard: set[int] = set()
        """Ranks that have rung at least once."""

    @property
    def fd(self) -> int:
        """File descriptor to select on."""
        return self._socket.fileno()

    def ring(self, rank: int, count: int) -> None:
        """Tell `rank` that `count` messages have been sent to it so far."""
        try:
            self._socket.sendto(_COUNT.pack(count), self._addresses[rank])
        except OSError:
            return  # a full buffer or a firewall costs latency, nothing else: the receiver polls too

    def drain(self, received: Sequence[int]) -> Rings:
        """Take a bounded number of rings; `received` are the numbers of messages that have come from each rank."""
        news = strange = False
        for _ in range(_DRAIN_LIMIT):
            try:
                datagram, address = self._socket.recvfrom(_COUNT.size + 1)
            except OSError:
                break
            rank = self._rank_at.get(address)
            if rank is None or len(datagram) != _COUNT.size:
                strange = True
                continue
            self.heard.add(rank)
            (count,) = _COUNT.unpack(datagram)
            self.announced[rank] = max(self.announced[rank], count)
            news = news or count > received[rank]
        return Rings(news, strange)

    def is_expecting(self, received: Sequence[int]) -> bool:
        """Tell whether a message has been announced that has not been received."""
        return any(announced > got for announced, got in zip(self.announced, received, strict=True))

    def forget(self, received: Sequence[int]) -> None:
        """Expect nothing any more: what was announced has not come in any reasonable time."""
        self.announced[:] = received

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def open_doorbell(rank: int, allgather: Allgather, setting: str | None = None) -> Doorbell | None:
    """Set up the doorbells of all ranks together; None on all of them unless every pair has heard each other.

    `allgather` exchanges bytes between all ranks, `setting` overrides the environment variable. Raises
    SharedError if the setting of any rank names nothing that its host has.
    """
    own = Host(host_identity(), local_interfaces())
    hosts = [_read_host(text) for text in allgather(json.dumps(own).encode(), SETUP_LIMIT)]
    setting = os.environ.get(VARIABLE, "") if setting is None else setting
    address, refusal = _wanted_address(own, hosts, setting)
    where = f"Rank {rank} on {hostname()}: " if refusal else ""
    refusals = allgather(f"{where}{refusal}".encode(), SETUP_LIMIT)
    if any(refusals):
        raise SharedError(next(filter(None, refusals)).decode("utf-8", "replace"))
    bound = _bind(address)
    port = bound.getsockname()[1] if bound else 0
    addresses = [_read_address(text) for text in allgather(json.dumps((address, port)).encode(), SETUP_LIMIT)]
    if bound is None:
        allgather(b"", SETUP_LIMIT)
        return None
    doorbell = Doorbell(bound, addresses)
    works = all(port for _, port in addresses) and _greet(doorbell, rank, len(addresses))
    if all(allgather(b"1" if works else b"", SETUP_LIMIT)):
        return doorbell
    doorbell.close()
    return None


def local_interfaces() -> tuple[Interface, ...]:
    """Return this host's IPv4 addresses on interfaces that are up, loopback left out."""
    stats = psutil.net_if_stats()
    return tuple(
        Interface(name, entry.address, entry.netmask)
        for name, entries in psutil.net_if_addrs().items()
        for entry in entries
        if entry.family == socket.AF_INET and entry.netmask and name in stats and stats[name].isup
        if not ipaddress.IPv4Address(entry.address).is_loopback
    )


def choose_address(own: Host, hosts: Sequence[Host]) -> str:
    """Return the address at which most ranks of other hosts reach this one; loopback if there are no other hosts.

    An interface counts the hosts that have an address in its network. A peer's address that we have too does not
    count: docker0 and virbr0 have the same address everywhere and lead nowhere. Without any common network, the
    kernel's route to a peer decides; empty if there is none.
    """
    others = [host for host in hosts if host.identity != own.identity]
    if not others:
        return LOOPBACK
    ours = {interface.address for interface in own.interfaces}

    def num_reached(interface: Interface) -> int:
        network = ipaddress.IPv4Network((interface.address, interface.netmask), strict=False)
        return sum(
            any(ipaddress.IPv4Address(peer.address) in network and peer.address not in ours for peer in host.interfaces)
            for host in others
        )

    best = max(own.interfaces, key=num_reached, default=None)
    if best is not None and num_reached(best):
        return best.address
    remote = [peer.address for host in others for peer in host.interfaces if peer.address not in ours]
    return next(filter(None, map(_source_towards, remote)), "")


def _wanted_address(own: Host, hosts: Sequence[Host], setting: str) -> tuple[str, str]:
    """Resolve the setting to an address to bind, empty for off, and what is wrong with it."""
    if setting == "off":
        return "", ""
    if not setting or all(host.identity == own.identity for host in hosts):
        return choose_address(own, hosts), ""
    for interface in own.interfaces:
        if setting == interface.name or _is_in_network(interface.address, setting):
            return interface.address, ""
    known = ", ".join(f"{interface.name} ({interface.address})" for interface in own.interfaces) or "none"
    refusal = f"{VARIABLE}={setting} names no interface, address or network of this host; there are: {known}; "
    return "", refusal + "or set it to off."


def _is_in_network(address: str, network: str) -> bool:
    try:
        return ipaddress.IPv4Address(address) in ipaddress.IPv4Network(network, strict=False)
    except ValueError:
        return False


def _source_towards(remote: str) -> str:
    """Return the address the kernel would send from to reach `remote`; connecting a UDP socket sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((remote, 9))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def _bind(address: str) -> socket.socket | None:
    if not address:
        return None
    own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        own.bind((address, 0))
    except OSError:
        own.close()
        return None
    own.setblocking(False)
    return own


def _greet(doorbell: Doorbell, rank: int, size: int) -> bool:
    """Ring all peers until all have rung; tell whether they did in time.

    A rank that has heard all rings once more, in case its first ring was lost to a peer that still listens.
    """
    peers = [peer for peer in range(size) if peer != rank]
    deadline = time.monotonic() + _GREETING_SECONDS
    while len(doorbell.heard) < len(peers) and time.monotonic() < deadline:
        _ring_all(doorbell, peers)
        pause_end = time.monotonic() + _GREETING_PAUSE
        while len(doorbell.heard) < len(peers) and (pause := pause_end - time.monotonic()) > 0:
            select.select((doorbell.fd,), (), (), pause)
            doorbell.drain([0] * size)
    _ring_all(doorbell, peers)
    return len(doorbell.heard) == len(peers)


def _ring_all(doorbell: Doorbell, peers: Sequence[int]) -> None:
    for peer in peers:
        doorbell.ring(peer, 0)


def _read_host(text: bytes) -> Host:
    try:
        identity, interfaces = json.loads(text)
        return Host(str(identity), tuple(Interface(*map(str, interface)) for interface in interfaces))
    except (ValueError, TypeError) as error:
        raise SharedError(_STRANGE_PEER) from error


def _read_address(text: bytes) -> tuple[str, int]:
    try:
        address, port = json.loads(text)
        return str(address), int(port)
    except (ValueError, TypeError) as error:
        raise SharedError(_STRANGE_PEER) from error
