"""The scripted target of studies fails loudly where a run is lost or out of order, and its draft keeps its promises."""

from __future__ import annotations

import pytest

from mpispec.compute.base import ComputeError
from mpispec.core.ids import Actor, NodeId, Pos, RequestId, RunId, SeqId, Token
from mpispec.core.messages import Follow, Prime, Row, Run, Sampling
from mpispec.sim.costs import ROWS_FACTORS, Modelled, law_speedup
from mpispec.sim.script import Acceptance, Script, ScriptedPredictor, ScriptedTarget
from mpispec.sim.study import Study
from mpispec.strategies import PRESETS

pytestmark = pytest.mark.unit

REQUEST = RequestId(0)
FIRST, SECOND = Actor(1), Actor(2)


def _script(length: int = 400) -> Script:
    return Script.drawn(1, length, seed=1)


def _row(node: int, parent: int, pos: int, token: int) -> Row:
    return Row(REQUEST, NodeId(node), NodeId(parent), Token(token), Pos(pos), SeqId(0), True)


def _run(run_id: int, *rows: Row) -> Run:
    return Run(RunId(run_id), rows)


def test_the_script_goes_on_after_itself_only() -> None:
    script = _script()
    text = script.texts[REQUEST]
    target = ScriptedTarget(script, num_stages=2)
    rows = (_row(0, -1, 0, text[0]), _row(1, 0, 1, text[1]), _row(2, 0, 1, text[1] ^ 1))
    run = _run(0, *rows)
    payload, _ = target.compute(FIRST, run, None)
    _, tokens = target.compute(SECOND, run, payload)
    assert tokens[:2] == (text[1], text[2])
    assert tokens[2] != text[2]


def test_a_row_before_its_parent_is_refused() -> None:
    target = ScriptedTarget(_script(), num_stages=2)
    target.compute(FIRST, _run(0, _row(0, -1, 0, 5)), None)
    payload, _ = target.compute(FIRST, _run(1, _row(1, 0, 1, 6)), None)
    with pytest.raises(ComputeError, match="stage 2 computes node 1 of request 0 before its parent"):
        target.compute(SECOND, _run(1, _row(1, 0, 1, 6)), payload)


def test_a_row_that_skips_or_repeats_a_stage_is_refused() -> None:
    target = ScriptedTarget(_script(), num_stages=2)
    with pytest.raises(ComputeError, match="out of turn"):
        target.compute(SECOND, _run(0, _row(0, -1, 0, 5)), b"\0")
    target.compute(FIRST, _run(0, _row(0, -1, 0, 5)), None)
    with pytest.raises(ComputeError, match="out of turn"):
        target.compute(FIRST, _run(0, _row(0, -1, 0, 5)), None)


def test_activations_of_other_rows_are_refused() -> None:
    target = ScriptedTarget(_script(), num_stages=2)
    target.compute(FIRST, _run(0, _row(0, -1, 0, 5)), None)
    with pytest.raises(ComputeError, match="other rows"):
        target.compute(SECOND, _run(0, _row(0, -1, 0, 5)), b"\0\0")


def test_the_draft_has_the_acceptance_rates_that_were_asked_for() -> None:
    length = 4000
    script = _script(length + 1)
    text = script.texts[REQUEST]
    acceptance = Acceptance((0.7,), rescue=0.5)
    predictor = ScriptedPredictor(script, acceptance, prompt_tokens=1)
    predictor.hear(Prime(REQUEST, (text[0],), Pos(length), 3, 0.0, Sampling()))
    ranks = [0, 0, 0, 0]
    for pos in range(length):
        (draft_tokens,) = predictor.compute((_row(pos, pos - 1, pos, text[pos]),), 3)
        tokens = [token for token, _ in draft_tokens]
        assert len(set(tokens)) == 3
        ranks[tokens.index(text[pos + 1]) if text[pos + 1] in tokens else 3] += 1
    assert [count / length for count in ranks[:3]] == pytest.approx(acceptance.probs(0, 3), abs=0.03)


def test_chances_by_depth_follow_what_is_accepted() -> None:
    script = _script()
    text = script.texts[REQUEST]
    predictor = ScriptedPredictor(script, Acceptance((0.9, 0.4)), prompt_tokens=1)
    predictor.hear(Prime(REQUEST, (text[0],), Pos(9), 1, 0.0, Sampling()))

    def announced(pos: int) -> float:
        return predictor.compute((_row(pos, pos - 1, pos, text[pos]),), 1)[0][0][1]

    assert [announced(pos) for pos in range(3)] == [0.9, 0.4, 0.4]
    predictor.hear(Follow(REQUEST, Pos(1), tuple(text[1:4]), Pos(9)))
    assert [announced(pos) for pos in range(3, 5)] == [0.9, 0.4]


def test_the_law_of_a_study_is_the_law_where_links_are_free() -> None:
    study = Study(num_stages=8)
    assert study.law_speedup(0.94) == pytest.approx(law_speedup(8, 0.94))
    assert Study(num_stages=8, num_requests=8).law_speedup(0.94) == pytest.approx(1.0)


def test_rows_cost_what_was_measured() -> None:
    assert [ROWS_FACTORS["cpu"][rows - 1] for rows in (1, 2, 4, 8, 16, 32)] == [1.0, 1.97, 3.4, 6.2, 11.8, 23.0]
    assert Modelled((0.5,), rows_factor=ROWS_FACTORS["cpu"]).compute(FIRST, 2) == pytest.approx(0.985)


@pytest.mark.parametrize("strategy", list(PRESETS))
def test_every_strategy_can_be_studied(strategy: str) -> None:
    from mpispec.sim.study import compare

    study = Study(num_stages=3, num_tokens=40, num_requests=2, rows_factor=ROWS_FACTORS["cpu"], link_s=0.002)
    (outcome,) = compare([strategy], study)
    assert outcome.tokens_per_s > 0.0
