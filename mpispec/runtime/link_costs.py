"""What the links between neighbouring stages cost, measured before the first request (docs/strategies.md, auto)."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import NamedTuple

import msgpack

from mpispec.core.ids import Plane
from mpispec.runtime.group import Group, gather
from mpispec.transport.base import Frame, TransportError

_ROWS = 16
"""Rows of the larger exchange; what it takes longer than the smaller one is their share of the link."""
_COUNT = 3
_WARM_UP = 2
_DEADLINE_S = 60.0


class LinkCost(NamedTuple):
    """Seconds on the slowest link between two stages of a pipeline; zeros where no two hold different ranks."""

    delay_s: float = 0.0
    """From the sending of an empty message to its arrival."""
    row_s: float = 0.0
    """What each activation row adds."""


def link_cost(group: Group, ranks: Sequence[int], row_bytes: int) -> LinkCost:
    """Measure the links of a pipeline whose stages are on `ranks`, one after the other. Collective.

    `group` must be open for frames of a run's rows. Raises TransportError if a rank does not answer.
    """
    mine = LinkCost()
    for one, other in itertools.pairwise(ranks):
        if one != other and group.rank in (one, other):
            found = _measure(group, other if group.rank == one else one, group.rank == one, row_bytes)
            mine = LinkCost(*map(max, mine, found))
        gather(group, b"")  # the next two begin when these have done
    everyone = [msgpack.unpackb(theirs) for theirs in gather(group, msgpack.packb(mine))]
    return LinkCost(*(max(column) for column in zip(*everyone, strict=True)))


def _measure(group: Group, peer: int, leads: bool, row_bytes: int) -> LinkCost:
    small = exchange(group, peer, leads, 0, _COUNT, _WARM_UP)
    large = exchange(group, peer, leads, _ROWS * row_bytes, _COUNT, _WARM_UP)
    if not leads:
        return LinkCost()
    return LinkCost(min(small), max(0.0, min(large) - min(small)) / _ROWS)


def exchange(group: Group, peer: int, leads: bool, num_bytes: int, count: int, warm_up: int) -> list[float]:
    """Send a frame there and back `count` times; return half of each round trip in seconds, for the one who leads."""
    frame = (bytes(num_bytes),)
    halves = []
    for _ in range(warm_up + count):
        if leads:
            start = time.monotonic()
            send(group, peer, frame)
            receive(group, peer)
            halves.append((time.monotonic() - start) / 2)
        else:
            receive(group, peer)
            send(group, peer, frame)
    return halves[warm_up:]


def send(group: Group, peer: int, parts: tuple[bytes, ...]) -> None:
    """Send a frame as the program's own loop does."""
    group.transport.announce(peer)
    group.transport.send(peer, Plane.DATA, parts)


def receive(group: Group, peer: int) -> Frame:
    """Return the next frame, sleeping as the program's own loop does while there is none. Raises TransportError."""
    deadline = time.monotonic() + _DEADLINE_S
    while (frame := group.transport.poll(Plane.DATA)) is None:
        if time.monotonic() > deadline:
            raise TransportError(f"Nothing came from rank {peer} in {_DEADLINE_S:.0f} s; is its host overloaded?")
        group.transport.reap()
        group.transport.wait(1.0)
    return frame
