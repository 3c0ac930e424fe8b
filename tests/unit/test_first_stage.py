"""What the head believes of the first stage, when its words come late or in another order than results."""

from __future__ import annotations

import pytest

from mpispec.core.ids import RunId
from mpispec.core.in_flight import FirstStage

pytestmark = pytest.mark.unit


def test_a_run_waits_until_it_is_taken() -> None:
    first = FirstStage()
    first.launched(RunId(0))
    first.launched(RunId(1))
    first.taken(RunId(0))
    assert (first.num_waiting, first.is_idle) == (1, False)


def test_it_is_idle_once_the_newest_run_has_left_it() -> None:
    first = FirstStage()
    assert first.is_idle
    first.launched(RunId(0))
    first.launched(RunId(1))
    first.emptied(RunId(0))
    assert not first.is_idle, "said before the newest run came to it"
    first.emptied(RunId(1))
    assert (first.num_waiting, first.is_idle) == (0, True)


def test_a_late_word_of_an_older_run_does_not_make_it_busy_again() -> None:
    first = FirstStage()
    first.launched(RunId(0))
    first.emptied(RunId(0))
    first.taken(RunId(0))
    first.emptied(RunId(0))
    assert first.is_idle
