"""A draft and stages that share cores: nobody computes in vain, and `auto` is about as good as the best."""

from __future__ import annotations

import pytest

from mpispec.core.draft import DraftCore
from mpispec.core.effects import ComputeDraft, Effect
from mpispec.core.events import Received
from mpispec.core.ids import HEAD, Actor, Pos, RequestId, Token
from mpispec.core.messages import Follow, Prime, Sampling
from mpispec.sim.costs import SharedCore
from research.grid import ASKED, SHARED_FIXED, measure, shared_study

pytestmark = pytest.mark.protocol

REQUEST = RequestId(0)


def rows_of(effects: list[Effect]) -> list[int]:
    return [len(effect.run.rows) for effect in effects if isinstance(effect, ComputeDraft)]


def test_a_draft_that_may_not_guess_computes_nothing_and_reads_all_at_once_when_it_may() -> None:
    core = DraftCore(chunk=64)
    prompt = tuple(map(Token, (1, 2, 3)))
    silent = core.handle(Received(HEAD, Prime(REQUEST, prompt, Pos(3), 1, 0.0, Sampling())), 0.0)
    assert rows_of(silent) == []
    for pos in range(3, 20):
        assert rows_of(core.handle(Received(HEAD, Follow(REQUEST, Pos(pos), (Token(7),), Pos(pos + 1))), 0.0)) == []
        core.check()
    asked = core.handle(Received(HEAD, Follow(REQUEST, Pos(20), (Token(7),), Pos(22))), 0.0)
    assert rows_of(asked) == [21]


def test_who_computes_on_a_core_gets_an_equal_part_of_it() -> None:
    core = SharedCore()
    core.begin(Actor(1), 4.0, now=0.0)
    assert core.next() == (1, 4.0)
    core.begin(Actor(2), 1.0, now=2.0)
    assert core.next() == (2, 4.0)
    core.end(Actor(2), now=4.0)
    assert core.next() == (1, 5.0)


@pytest.mark.parametrize("hit", [0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95])
@pytest.mark.parametrize(("stages", "crowd"), [(1, 1), (4, 4)])
def test_auto_reaches_the_best_fixed_strategy_where_the_draft_shares_the_only_core(
    stages: int, crowd: int, hit: float
) -> None:
    found = measure(shared_study("cpu8", stages, crowd, draft=0.3, hit=hit), SHARED_FIXED)
    assert found["share"] >= ASKED, found


@pytest.mark.parametrize("hit", [0.0, 0.5, 0.8, 0.95])
@pytest.mark.parametrize(("stages", "crowd"), [(4, 1), (4, 2), (8, 2)])
def test_auto_reaches_the_best_fixed_strategy_where_a_small_draft_shares_the_first_core(
    stages: int, crowd: int, hit: float
) -> None:
    found = measure(shared_study("cpu8", stages, crowd, draft=0.03, hit=hit), SHARED_FIXED)
    assert found["share"] >= ASKED, found


@pytest.mark.parametrize("hit", [0.5, 0.95])
def test_auto_does_not_guess_where_a_second_row_costs_a_second_run_of_the_only_core(hit: float) -> None:
    found = measure(shared_study("cpu", 1, 1, draft=0.3, hit=hit), SHARED_FIXED)
    assert found["best_fixed"] == "plain"
    assert found["share"] >= ASKED, found
