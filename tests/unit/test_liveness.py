"""Ranks that have gone are noticed while nobody asks for anything."""

from __future__ import annotations

import pytest

from mpispec.core.ids import Actor
from mpispec.core.messages import AskWork
from mpispec.runtime.liveness import ASK_S, MOST_UNANSWERED, Liveness, watch_stages
from mpispec.runtime.plan import Plan, StagePlace
from mpispec.transport.base import TransportError

pytestmark = pytest.mark.unit

HOSTS = ("a", "b", "c")
RANK_OF = {Actor(2): 1, Actor(3): 2}


def new() -> Liveness:
    return Liveness({1: Actor(2), 2: Actor(3)}, HOSTS)


def asked(liveness: Liveness, now: float) -> set[int]:
    """Return the ranks that are asked at a moment."""
    sends = liveness.look(now)
    assert all(send.message == AskWork() for send in sends)
    return {RANK_OF[send.dst] for send in sends}


def test_who_speaks_is_not_asked() -> None:
    liveness = new()
    assert asked(liveness, 1000.0) == set(), "nobody is late at the start"
    liveness.hear(1)
    assert asked(liveness, 1000.0 + ASK_S - 1) == set()
    assert asked(liveness, 1000.0 + ASK_S) == {2}
    assert asked(liveness, 1000.0 + ASK_S + 1) == set(), "once"


def test_who_answers_stays() -> None:
    liveness = new()
    for second in range(10 * int(ASK_S) * MOST_UNANSWERED):
        for rank in asked(liveness, float(second)):
            liveness.hear(rank)


def test_a_rank_that_is_gone_is_named() -> None:
    liveness = new()
    seconds = 0
    with pytest.raises(TransportError, match=r"nothing comes from rank 2 on c, though it was asked 4 times in 40 s"):
        for seconds in range(1000):
            asked(liveness, float(seconds))
            liveness.hear(1)
    assert seconds == ASK_S * (MOST_UNANSWERED + 1)


def test_a_pause_of_ones_own_is_no_silence_of_others() -> None:
    liveness = new()
    asked(liveness, 0.0)
    for moment in (1000.0, 2000.0, 3000.0):  # the host slept between
        assert asked(liveness, moment) == {1, 2}
        liveness.hear(1)
        liveness.hear(2)
        assert asked(liveness, moment + 1) == set()


def test_only_stages_of_the_target_are_watched() -> None:
    """A draft that hangs costs speed alone."""
    places = (StagePlace(0, 0, 3), StagePlace(2, 4, 7), StagePlace(2, 8, 9))
    liveness = watch_stages(Plan(3, places, 1), 0, HOSTS)
    liveness.look(0.0)
    [question] = liveness.look(ASK_S)
    assert question.dst in (Actor(2), Actor(3))
