"""A draft and stages that share cores: no draft computes in vain, and `auto` is about as good as the best strategy."""

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


def test_a_draft_that_may_not_draft_computes_nothing_and_later_reads_all_at_once() -> None:
    core = DraftCore(chunk=64)
    prompt = tuple(map(Token, (1, 2, 3)))
    silent = core.handle(Received(HEAD, Prime(REQUEST, prompt, Pos(3), 1, 0.0, Sampling())), 0.0)
    assert rows_of(silent) == []
    for pos in range(3, 20):
        assert rows_of(core.handle(Received(HEAD, Follow(REQUEST, Pos(pos), (Token(7),), Pos(pos + 1))), 0.0)) == []
        core.check()
    asked = core.handle(Received(HEAD, Follow(REQUEST, Pos(20), (Token(7),), Pos(22))), 0.0)
    assert rows_of(asked) == [21]


def test_actors_that_compute_on_one_core_get_equal_parts_of_it() -> None:
    core = SharedCore()
    core.begin(Actor(1), 4.0, now=0.0)
    assert core.next() == (1, 4.0)
    core.begin(Actor(2), 1.0, now=2.0)
    assert core.next() == (2, 4.0)
    core.end(Actor(2), now=4.0)
    assert core.next() == (1, 5.0)


@pytest.mark.parametrize("acceptance_rate", [0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95])
@pytest.mark.parametrize(("stages", "crowd"), [(1, 1), (4, 4)])
def test_auto_reaches_the_best_fixed_strategy_where_the_draft_shares_the_only_core(
    stages: int, crowd: int, acceptance_rate: float
) -> None:
    found = measure(shared_study("cpu8", stages, crowd, draft=0.3, acceptance=acceptance_rate), SHARED_FIXED)
    assert found["share"] >= ASKED, found


@pytest.mark.parametrize("acceptance_rate", [0.0, 0.5, 0.8, 0.95])
@pytest.mark.parametrize(("stages", "crowd"), [(4, 1), (4, 2), (8, 2)])
def test_auto_reaches_the_best_fixed_strategy_where_a_small_draft_shares_the_first_core(
    stages: int, crowd: int, acceptance_rate: float
) -> None:
    found = measure(shared_study("cpu8", stages, crowd, draft=0.03, acceptance=acceptance_rate), SHARED_FIXED)
    assert found["share"] >= ASKED, found


def test_what_a_draft_costs_is_counted_though_it_falls_silent_meanwhile() -> None:
    found = measure(shared_study("gpu4", 1, 1, draft=0.03, acceptance=0.3), SHARED_FIXED)
    assert found["best_fixed"] == "plain"
    assert found["share"] >= ASKED, found


@pytest.mark.parametrize("rows", ["cpu", "cpu4", "moe"])
def test_runs_flow_where_the_leading_run_is_alone_on_all_cores_but_the_first(rows: str) -> None:
    found = measure(shared_study(rows, 8, 4, draft=0.3, acceptance=0.9), SHARED_FIXED)
    assert found["best_fixed"] == "pipeinfer"
    assert found["share"] >= ASKED, found


@pytest.mark.parametrize("acceptance_rate", [0.5, 0.95])
def test_auto_does_not_draft_where_a_second_row_costs_a_second_run_of_the_only_core(acceptance_rate: float) -> None:
    found = measure(shared_study("cpu", 1, 1, draft=0.3, acceptance=acceptance_rate), SHARED_FIXED)
    assert found["best_fixed"] == "plain"
    assert found["share"] >= ASKED, found
