"""Every stage hears of a cancel once, whoever passes it on."""

from __future__ import annotations

import pytest

from mpispec.core.ids import FANOUT, HEAD, Actor, relays

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("num_stages", [1, 7, 8, 9, 64, 73, 200])
@pytest.mark.parametrize("head", [HEAD, Actor(5)])
def test_every_stage_is_told_once_and_by_one_that_was_told_before(num_stages: int, head: Actor) -> None:
    told = [head]
    for actor in told:  # grows as it goes
        told += relays(actor, head, num_stages)
    assert told == [head + index for index in range(num_stages + 1)]
    assert all(len(relays(actor, head, num_stages)) <= FANOUT for actor in told)
