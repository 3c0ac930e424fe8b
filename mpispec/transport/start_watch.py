"""A program beside a rank that waits inside MPI: ends it with a sentence where a host does not answer.

MPI_Init and the first collectives block, and try for up to an hour to reach a host behind a firewall or on the wrong
network card, without a word. Which one it is only the kernel knows: a connection of the rank that is not answered.
Nothing is imported but the standard library, so that it has started before it is needed.

    start_watch.py PID RANK HOST SECONDS    until standard input ends
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator

LOOK_SECONDS = 1.0
HINT_LOOKS = 30
"""After so many rank 0 says what may be wrong: a card that answers, but on another host, leaves nothing to be seen."""
_REMEDY = "name yours: UCX_NET_DEVICES=eth0 or --mca btl_tcp_if_include eth0."
_SYN_SENT = "02"
_NETS = (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6))


def main(pid: int, rank: int, host: str, seconds: float) -> None:
    """Look once a second; say it and end the rank where the same connection was not answered for so long."""
    looks: dict[str, int] = {}
    num_looks = 0
    while not select.select([0], [], [], LOOK_SECONDS)[0]:
        num_looks += 1
        if num_looks == HINT_LOOKS and rank == 0:
            say(hint(host, HINT_LOOKS * LOOK_SECONDS))
        asked = dict(unanswered(pid))
        looks = {connection: looks.get(connection, 0) + 1 for connection in asked}
        for connection, address in asked.items():
            if looks[connection] * LOOK_SECONDS >= seconds:
                say(sentence(rank, host, address, seconds))
                time.sleep(LOOK_SECONDS)  # launchers forget what they have not read when a rank ends
                os.kill(pid, signal.SIGTERM)
                return


def sentence(rank: int, host: str, address: str, seconds: float) -> str:
    """Return what is said of an address that does not answer."""
    return (
        f"Rank {rank} on {host} has had no answer from {address} for {seconds:.0f} s, so the job ends: a firewall is "
        f"between them, or MPI uses the wrong network card; {_REMEDY}"
    )


def hint(host: str, seconds: float) -> str:
    """Return what is said where the ranks do not find each other and no connection shows why."""
    return (
        f"Rank 0 on {host} has waited for the other ranks for {seconds:.0f} s. One of them may start slowly; else "
        f"MPI uses the wrong network card, such as a bridge for containers: {_REMEDY}"
    )


def say(text: str) -> None:
    """Write a line at once: words of other ranks may come between lines, not within one."""
    os.write(2, f"mpispec: {text}\n".encode())


def unanswered(pid: int) -> Iterator[tuple[str, str]]:
    """Yield each connection of a process that waits for the other side, and the address that it asks."""
    with contextlib.suppress(OSError):
        sockets = set(_sockets(pid))
        for name, family in _NETS:
            with open(f"/proc/{pid}/net/{name}", encoding="ascii") as table:
                for line in table.readlines()[1:]:
                    _, local, remote, state, *_, inode = line.split()[:10]
                    if state == _SYN_SENT and inode in sockets:
                        yield f"{local} {remote}", _address(remote, family)


def _sockets(pid: int) -> Iterator[str]:
    """Yield the inodes of the sockets of a process."""
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
            if target.startswith("socket:["):
                yield target[8:-1]


def _address(field: str, family: socket.AddressFamily) -> str:
    """Return `host:port` of a field of /proc/net/tcp, whose words are in this machine's order of bytes."""
    words, port = field.split(":")
    raw = b"".join(struct.pack("=I", int(words[start : start + 8], 16)) for start in range(0, len(words), 8))
    return f"{socket.inet_ntop(family, raw)}:{int(port, 16)}"


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], float(sys.argv[4]))
