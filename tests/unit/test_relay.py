"""Every stage receives a cancel once, whichever stage passes it on."""

from __future__ import annotations

import pytest

from mpispec.core.ids import FANOUT, HEAD, Actor, relays

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("num_stages", [1, 7, 8, 9, 64, 73, 200])
@pytest.mark.parametrize("head", [HEAD, Actor(5)])
def test_every_stage_receives_a_cancel_once_from_one_that_has_it(num_stages: int, head: Actor) -> None:
    received = [head]
    for actor in received:  # grows as it goes
        received += relays(actor, head, num_stages)
    assert received == [head + index for index in range(num_stages + 1)]
    assert all(len(relays(actor, head, num_stages)) <= FANOUT for actor in received)
