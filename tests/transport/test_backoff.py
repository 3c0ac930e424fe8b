"""Sleeps grow with the silence, within the bounds of what may be expected."""

from __future__ import annotations

import pytest

from mpispec.core.ids import Plane
from mpispec.transport.base import SMALL_PLANE, Limits, TransportError
from mpispec.transport.waiting import (
    DISTRUST_SECONDS,
    IDLE_AFTER,
    LONGEST_BUSY,
    LONGEST_IDLE,
    LONGEST_RUNG,
    SHORTEST,
    Backoff,
)

pytestmark = pytest.mark.transport

START = 1000.0


def pauses(backoff: Backoff, until: float, is_busy: bool = False) -> list[float]:
    """The sleeps of a rank to which nothing happens from START on."""
    now, found = START, []
    backoff.activity(now)
    while now < START + until:
        found.append(backoff.next_pause(now, is_busy))
        now += found[-1]
    return found


def test_without_a_doorbell_sleeps_grow_and_stay_in_bounds() -> None:
    sleeps = pauses(Backoff(has_doorbell=False), IDLE_AFTER + 1)
    assert sleeps == sorted(sleeps)
    assert sleeps[0] == SHORTEST and sleeps[-1] == LONGEST_IDLE
    assert LONGEST_BUSY in sleeps
    assert len(sleeps) < 50 + IDLE_AFTER / LONGEST_BUSY + 1 / LONGEST_IDLE


def test_activity_makes_sleeps_short_again() -> None:
    backoff = Backoff(has_doorbell=False)
    pauses(backoff, 1.0)
    backoff.activity(START + 1.0)
    assert backoff.next_pause(START + 1.0, False) == SHORTEST


def test_with_a_doorbell_an_idle_rank_sleeps_long_at_once() -> None:
    assert set(pauses(Backoff(has_doorbell=True), 0.5)) == {LONGEST_RUNG}


def test_a_message_under_way_keeps_sleeps_short_with_a_doorbell_too() -> None:
    sleeps = pauses(Backoff(has_doorbell=True), IDLE_AFTER + 1, is_busy=True)
    assert sleeps[0] == SHORTEST and max(sleeps) == LONGEST_BUSY


def test_a_missed_ring_ends_the_trust_in_rings_for_a_while() -> None:
    backoff = Backoff(has_doorbell=True)
    backoff.activity(START)
    backoff.missed_ring(START)
    assert not backoff.relies_on_rings(START + 0.5 * DISTRUST_SECONDS)
    assert backoff.next_pause(START, False) == SHORTEST
    assert backoff.relies_on_rings(START + DISTRUST_SECONDS)
    assert backoff.next_pause(START + DISTRUST_SECONDS, False) == LONGEST_RUNG


def test_limits_leave_room_for_rows_and_prompts() -> None:
    limits = Limits.for_rows(max_rows=64, row_bytes=2304)
    assert limits.of(Plane.DATA) > 64 * (2304 + 28)
    assert limits.of(Plane.CONTROL) == limits.of(Plane.DRAFT) == SMALL_PLANE
    for plane in (Plane.DRAFT, Plane.DATA):
        assert Limits.for_rows(1, 1, context=1_000_000).of(plane) > 4_000_000
    limits.check(Plane.CONTROL, SMALL_PLANE)
    with pytest.raises(TransportError, match=r"262145 bytes exceeds the 262144 bytes of the control plane; send fewer"):
        limits.check(Plane.CONTROL, SMALL_PLANE + 1)
