"""Rings wake a sleeper and count; whatever is wrong with them changes nothing else."""

from __future__ import annotations

import itertools
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from mpispec.transport import doorbell as doorbell_module
from mpispec.transport.base import SharedError, TransportError
from mpispec.transport.doorbell import LOOPBACK, Doorbell, Host, Interface, choose_address, open_doorbell
from mpispec.transport.environment import hostname
from mpispec.transport.waiting import Waiter

pytestmark = pytest.mark.transport

ETHERNET = "255.255.255.0"


def host(name: str, *addresses: str) -> Host:
    return Host(name, tuple(Interface(f"eth{i}", address, ETHERNET) for i, address in enumerate(addresses)))


def bound_socket() -> socket.socket:
    own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    own.bind((LOOPBACK, 0))
    own.setblocking(False)
    return own


@pytest.fixture
def pair() -> Iterator[tuple[Doorbell, Doorbell]]:
    """The doorbells of ranks 0 and 1."""
    sockets = [bound_socket(), bound_socket()]
    addresses = [own.getsockname() for own in sockets]
    doorbells = [Doorbell(own, addresses) for own in sockets]
    yield doorbells[0], doorbells[1]
    for doorbell in doorbells:
        doorbell.close()


class Exchange:
    """An allgather between threads."""

    def __init__(self, size: int) -> None:
        self._parts = [b""] * size
        self._barrier = threading.Barrier(size)

    def allgather(self, rank: int, data: bytes, limit: int) -> list[bytes]:
        assert len(data) <= limit
        self._parts[rank] = data
        self._barrier.wait()
        parts = list(self._parts)
        self._barrier.wait()
        return parts


def open_all(settings: list[str]) -> list[Doorbell | None]:
    exchange = Exchange(len(settings))

    def open_one(rank: int) -> Doorbell | None:
        return open_doorbell(rank, lambda data, limit: exchange.allgather(rank, data, limit), settings[rank])

    with ThreadPoolExecutor(len(settings)) as threads:
        return list(threads.map(open_one, range(len(settings))))


def test_ranks_of_one_host_hear_each_other() -> None:
    doorbells = open_all(["", "", ""])
    for rank, doorbell in enumerate(doorbells):
        assert doorbell is not None
        assert doorbell.heard == {0, 1, 2} - {rank}
        doorbell.close()


def test_one_rank_without_a_doorbell_turns_off_all() -> None:
    assert open_all(["", "off", ""]) == [None, None, None]


def test_on_one_host_the_setting_need_not_name_an_interface() -> None:
    doorbells = open_all(["eth9", "eth9"])
    for doorbell in doorbells:
        assert doorbell is not None
        doorbell.close()


def test_a_setting_that_names_nothing_is_refused_with_what_there_is() -> None:
    def two_hosts(data: bytes, _: int) -> list[bytes]:
        return [data, json.dumps(host("elsewhere", "203.0.113.7")).encode()]

    with pytest.raises(TransportError, match=r"MPISPEC_DOORBELL=nonsense0 names no interface, .* set it to off\."):
        open_doorbell(0, two_hosts, "nonsense0")


def test_all_ranks_raise_what_one_of_them_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    identities = map(str, itertools.count())
    monkeypatch.setattr(doorbell_module, "host_identity", lambda: next(identities))
    refusals: list[str] = []

    def open_one(rank: int, exchange: Exchange, setting: str) -> None:
        with pytest.raises(SharedError) as caught:
            open_doorbell(rank, lambda data, limit: exchange.allgather(rank, data, limit), setting)
        refusals.append(str(caught.value))

    settings = ["off", "nonsense0", "off"]
    with ThreadPoolExecutor(len(settings)) as threads:
        exchange = Exchange(len(settings))
        list(threads.map(lambda rank: open_one(rank, exchange, settings[rank]), range(len(settings))))
    assert len(refusals) == 3 and len(set(refusals)) == 1
    assert refusals[0].startswith(f"Rank 1 on {hostname()}: MPISPEC_DOORBELL=nonsense0 names no interface")


@pytest.mark.parametrize("answer", [b"", b"{", b"[1]", b'["x", [["a"]]]', b"\xff"])
def test_a_rank_of_another_version_is_refused(answer: bytes) -> None:
    with pytest.raises(TransportError, match="same mpispec on every host"):
        open_doorbell(0, lambda data, _: [data, answer], "")


def test_hosts_use_the_network_they_share() -> None:
    own = host("a", "192.0.2.1", "10.0.0.1")
    assert choose_address(own, [own, own]) == LOOPBACK
    assert choose_address(own, [own, host("b", "10.0.0.2")]) == "10.0.0.1"
    assert choose_address(own, [own, host("b", "10.0.0.2", "192.0.2.2")]) == "192.0.2.1"


def test_an_address_that_every_host_has_leads_nowhere() -> None:
    own = host("a", "172.17.0.1", "10.0.0.1")
    assert choose_address(own, [own, host("b", "172.17.0.1", "10.0.0.2")]) == "10.0.0.1"


def test_the_network_with_most_hosts_wins() -> None:
    own = host("a", "192.0.2.1", "10.0.0.1")
    others = [host("b", "192.0.2.2"), host("c", "10.0.0.3"), host("d", "10.0.0.4")]
    assert choose_address(own, [own, *others]) == "10.0.0.1"


def test_a_host_without_any_network_has_no_doorbell() -> None:
    assert choose_address(host("a"), [host("a"), host("b")]) == ""


def test_a_ring_is_news_until_its_message_has_come(pair: tuple[Doorbell, Doorbell]) -> None:
    ours, theirs = pair
    theirs.ring(0, 3)
    assert ours.drain([0, 2]) == (True, False)
    assert ours.is_expecting([0, 2]) and not ours.is_expecting([0, 3])
    theirs.ring(0, 3)
    theirs.ring(0, 1)
    assert ours.drain([0, 3]) == (False, False)
    assert not ours.is_expecting([0, 3])


def test_what_never_comes_is_forgotten(pair: tuple[Doorbell, Doorbell]) -> None:
    ours, theirs = pair
    theirs.ring(0, 2**64 - 1)
    assert ours.drain([0, 0]).news
    ours.forget([0, 0])
    assert not ours.is_expecting([0, 0])


@pytest.mark.parametrize("datagram", [b"", b"\1", b"\1" * 9, b"\1" * 500])
def test_a_malformed_ring_is_strange(pair: tuple[Doorbell, Doorbell], datagram: bytes) -> None:
    ours, theirs = pair
    theirs._socket.sendto(datagram, ours._addresses[0])
    assert ours.drain([0, 0]) == (False, True)


def test_a_ring_from_a_stranger_is_strange(pair: tuple[Doorbell, Doorbell]) -> None:
    ours, _ = pair
    with bound_socket() as stranger:
        stranger.sendto(b"\1" * 8, ours._addresses[0])
    assert ours.drain([0, 0]) == (False, True)
    assert ours.heard == set()


def test_a_drain_is_bounded(pair: tuple[Doorbell, Doorbell]) -> None:
    ours, theirs = pair
    for _ in range(100):
        theirs.ring(0, 1)
    assert ours.drain([0, 0]).news
    assert ours.drain([0, 0]).news
    assert not ours.drain([0, 0]).news


def test_ringing_a_rank_that_has_left_is_harmless(pair: tuple[Doorbell, Doorbell]) -> None:
    ours, theirs = pair
    theirs.close()
    for count in range(3):
        ours.ring(1, count)
    assert ours.drain([0, 0]) == (False, False)


def test_a_ring_ends_a_long_sleep_and_shortens_the_next(pair: tuple[Doorbell, Doorbell]) -> None:
    waiter, sender = Waiter(0, 2, pair[0]), Waiter(1, 2, pair[1])
    sender.note_sending(0)
    now = time.monotonic()
    assert not waiter.sleep(now, now + 600, is_moving=False)  # ended by the ring
    assert not waiter.is_busy
    assert not waiter.sleep(now, now + 600, is_moving=False)  # not begun: its message has not been received
    assert waiter.is_busy
    waiter.note_received(1)
    waiter.wake()
    now = time.monotonic()
    assert waiter.sleep(now, now + 600, is_moving=False)
    assert not waiter.is_busy
    waiter.close()
    sender.close()


def test_a_stranger_cannot_keep_a_rank_awake(pair: tuple[Doorbell, Doorbell]) -> None:
    waiter = Waiter(0, 2, pair[0])
    with bound_socket() as stranger:
        for _ in range(100):
            stranger.sendto(b"noise", pair[0]._addresses[0])
    now = time.monotonic()
    waiter.sleep(now, now + 600, is_moving=False)
    assert waiter._is_rung
    waiter.sleep(now, now + 600, is_moving=False)  # a short sleep that does not listen
    assert not (waiter._is_rung or waiter._is_deaf or waiter.is_busy)
    waiter.close()
