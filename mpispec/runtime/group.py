"""The ranks of a job before and after the loop: agreeing, gathering, measuring clocks, giving up together."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Mapping
from typing import NoReturn, Protocol, TypeVar

import msgpack

from mpispec.core.ids import Plane
from mpispec.transport.base import Frame, Limits, Transport, TransportError
from mpispec.transport.environment import hostname

K = TypeVar("K")
T = TypeVar("T")


class JobError(Exception):
    """The job cannot begin or go on; one sentence with the remedy, the same on all ranks."""


class GroupTransport(Transport, Protocol):
    """A transport that also has the collectives of set-up."""

    def open(self, limits: Limits) -> None: ...
    def allgather_bytes(self, data: bytes, limit: int) -> list[bytes]: ...
    def abort(self, code: int) -> NoReturn: ...


class Group:
    """This rank among the others."""

    def __init__(self, transport: GroupTransport) -> None:
        self.transport = transport
        self.rank = transport.rank
        self.size = transport.size
        self.open = transport.open
        self.close = transport.close
        self.abort = transport.abort

    def clock_offset(self) -> float:
        """Return the seconds to add to this rank's monotonic clock to get rank 0's (Cristian's algorithm).

        Rank 0 answers each rank; of several exchanges of a rank the quickest is taken.
        """
        if self.rank == 0:
            for _ in range(_EXCHANGES * (self.size - 1)):
                asked = self._receive()
                self.transport.send(asked.src, Plane.CONTROL, (_CLOCK.pack(time.monotonic()),))
            return 0.0
        best = (float("inf"), 0.0)
        for _ in range(_EXCHANGES):
            start = time.monotonic()
            self.transport.send(0, Plane.CONTROL, (_CLOCK.pack(start),))
            (theirs,) = _CLOCK.unpack(self._receive().data)
            end = time.monotonic()
            best = min(best, (end - start, theirs - (start + end) / 2))
        return best[1]

    def _receive(self) -> Frame:
        deadline = time.monotonic() + _CLOCK_DEADLINE_S
        while (frame := self.transport.poll(Plane.CONTROL)) is None:
            if time.monotonic() > deadline:
                raise TransportError("A rank did not answer while clocks were compared; is its host overloaded?")
            self.transport.reap()
            self.transport.wait(0.001)
        return frame


_CLOCK = struct.Struct("<d")
_EXCHANGES = 16
_CLOCK_DEADLINE_S = 60.0
_MOST_WORDS = 1 << 20


def gather(group: Group, mine: bytes, limit: int = _MOST_WORDS) -> list[bytes]:
    """Return what every rank contributed, in rank order, on every rank."""
    return group.transport.allgather_bytes(mine, limit)


def merged(group: Group, mine: Mapping[K, T]) -> dict[K, T]:
    """Return the union of what all ranks know; keys and values as msgpack takes them. Collective."""
    found: dict[K, T] = {}
    for theirs in gather(group, msgpack.packb(mine)):
        found.update(msgpack.unpackb(theirs, strict_map_key=False))
    return found


def agree(group: Group, action: Callable[[], T]) -> T:
    """Do something on every rank; return its result, or raise JobError on all of them if it failed on any.

    The sentence is that of the lowest rank that failed, with the rank and host unless all failed alike or only rank
    0, where the person is.
    """
    result: T | None = None
    failure = ""
    try:
        result = action()
    except JobError as error:
        failure = str(error)
    failures = [msgpack.unpackb(theirs) for theirs in gather(group, msgpack.packb([hostname(), failure]))]
    texts = {text for _, text in failures if text}
    if not texts:
        return result  # type: ignore[return-value]
    failed = [(rank, host, text) for rank, (host, text) in enumerate(failures) if text]
    rank, host, text = failed[0]
    is_shared = len(texts) == 1 and len(failed) == group.size
    is_only_ours = rank == 0 and len(failed) == 1
    raise JobError(text if is_shared or is_only_ours else f"Rank {rank} on {host}: {text}")


def on_rank_0(group: Group, action: Callable[[], T], elsewhere: T) -> T:
    """Do something on rank 0, where the person is; return what came out there and `elsewhere` on all others.

    Collective; raises JobError on all ranks as `agree` does.
    """
    return agree(group, lambda: action() if group.rank == 0 else elsewhere)
