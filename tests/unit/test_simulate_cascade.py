"""Cascades in studies: the figures of PipeSpec come out, and the closed forms of docs/methodology.md agree."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner, Result
from steady import cascade_seconds_per_token, seconds_per_token

from mpispec.cli import main
from mpispec.sim.cascade import CascadeModel, extended, models
from mpispec.sim.costs import ROWS_FACTORS, Modelled
from mpispec.sim.script import VOCABULARY, Script
from mpispec.sim.study import PROMPT_TOKENS, Study, measure

pytestmark = pytest.mark.unit

_ONE_B, _EIGHT_B, _SEVENTY_B = "12.4", "22.46/28.1", "123.7"
_PAPER = ("--stages", "1", "--stage-ms", _SEVENTY_B, "--rows", "gpu4", "--strategy", "pipespec", "--tokens", "6000")
"""Times of PipeSpec's HumanEval files (github.com/BradMcDanel/pipespec)."""


def _simulate(*flags: str) -> Result:
    return CliRunner().invoke(main, ["simulate", *flags])


def _speedup(cascade: str) -> float:
    found = _simulate(*_PAPER, "--cascade", cascade, "--json")
    assert found.exit_code == 0, found.output
    return float(json.loads(found.stdout)["results"][0]["speedup_over_plain"])


def test_the_cascade_of_the_paper_is_as_fast_and_beats_both_chains() -> None:
    """Agreements are fitted to the paper's three pairs of models; the cascade of all three is then a prediction."""
    one, eight = _speedup(f"{_ONE_B}:0.924"), _speedup("22.46:0.942")
    assert one == pytest.approx(2.26, rel=0.05)
    assert eight == pytest.approx(2.27, rel=0.05)
    three = _speedup(f"{_ONE_B}:0.923,{_EIGHT_B}:0.942")
    assert three > 0.9 * 2.54
    assert three > 1.05 * max(one, eight)


def test_levels_may_be_pipelines_and_any_strategy_may_use_them() -> None:
    flags = ("--stages", "3", "--cascade", "1:0.9,2:0.9:2,4:0.9:3", "--tokens", "60", "--json")
    found = _simulate(*flags, "--strategy", "plain,sync,pipeinfer,specpipe,auto,pipespec")
    assert found.exit_code == 0, found.output
    results = {result["strategy"]: result["speedup_over_plain"] for result in json.loads(found.stdout)["results"]}
    assert min(results[name] for name in ("sync", "pipeinfer", "specpipe", "pipespec")) > 1.0


@pytest.mark.parametrize(
    ("cascade", "sentence"),
    [
        ("12", "--cascade has '12'; write each model as MS:AGREEMENT"),
        ("12:high", "--cascade has '12:high'; write"),
        ("12:0.9:1:1", "--cascade has '12:0.9:1:1'; write"),
        ("12:1.5", "agreements from 0 to 1"),
        ("0:0.9", "times are above 0"),
        ("nan:0.9", "times are above 0"),
        ("1:0.9,2:0.9:0", "stages at least 1"),
    ],
)
def test_errors_are_sentences(cascade: str, sentence: str) -> None:
    found = _simulate("--cascade", cascade)
    assert found.exit_code == 2
    assert sentence in found.stderr


# -- closed forms --------------------------------------------------------------------------------------------------

_STAGE_S = 0.1237


def _rows_s(rows: str) -> list[float]:
    costs = Modelled((_STAGE_S,), rows_factor=ROWS_FACTORS[rows])
    return [costs.compute(1, count) for count in range(1, 65)]  # type: ignore[arg-type]


def _simulated(rows: str, *cascade: CascadeModel, num_tokens: int = 6000) -> tuple[float, list[CascadeModel]]:
    """Return the mean seconds per token in virtual time, and the cascade with the agreements that chance gave."""
    study = Study(1, _STAGE_S, rows_factor=ROWS_FACTORS[rows], cascade=cascade, num_tokens=num_tokens, seed=1)
    script = Script.drawn(1, PROMPT_TOKENS + study.num_tokens + 1, study.seed)
    (text,) = script.texts.values()
    written = models(cascade, [text], VOCABULARY, study.seed)
    key = 0
    agreed = [0] * len(cascade)
    for pos, token in enumerate(text):
        said = [written.after(level, pos, key) for level in range(len(cascade) + 1)]
        for depth in range(len(cascade)):
            agreed[depth] += said[depth] == said[depth + 1]
        key = extended(key, token)
    drawn = [
        replace(model, acceptance=count / len(text)) for model, count in zip(cascade, reversed(agreed), strict=True)
    ]
    return 1.0 / measure("pipespec", study).tokens_per_s, drawn


@pytest.mark.parametrize(
    ("rows", "step_s", "acceptance"),
    [("flat", 0.0124, 0.6), ("gpu4", 0.0124, 0.9), ("gpu4", 0.04, 0.95), ("cpu", 0.04, 0.95)],
)
def test_a_pair_runs_at_the_pace_of_the_closed_form(rows: str, step_s: float, acceptance: float) -> None:
    simulated, (model,) = _simulated(rows, CascadeModel((step_s,), acceptance))
    assert seconds_per_token(model.acceptance, step_s, _rows_s(rows)) == pytest.approx(simulated, rel=0.02)


@pytest.mark.parametrize(
    "cascade",
    [
        (CascadeModel((0.0124,), 0.923), CascadeModel((0.02246, 0.0281), 0.942)),
        (CascadeModel((0.005,), 0.7), CascadeModel((0.02,), 0.8), CascadeModel((0.05, 0.06), 0.9)),
    ],
)
def test_a_cascade_runs_close_to_the_pace_of_the_closed_form(cascade: tuple[CascadeModel, ...]) -> None:
    """The form takes a level's stream for an even one, so it is a little too fast."""
    simulated, drawn = _simulated("gpu4", *cascade, num_tokens=3000)
    assert 0.9 <= cascade_seconds_per_token(drawn, _rows_s("gpu4")) / simulated <= 1.02


@pytest.mark.parametrize("acceptance", [0.3, 0.8, 0.95])
@pytest.mark.parametrize("draft_tokens", [1, 4, 9])
def test_with_free_rows_two_states_are_enough(acceptance: float, draft_tokens: int) -> None:
    """docs/methodology.md, a cascade in steady state: the continuation below is still valid, or just corrected."""
    valid = acceptance / (1.0 + acceptance - acceptance ** (draft_tokens + 1))
    tokens = 1.0 + valid * ((1.0 - acceptance ** (draft_tokens + 1)) / (1.0 - acceptance) - 1.0)
    assert seconds_per_token(acceptance, 1.0 / (draft_tokens + 1), (1.0,)) == pytest.approx(1.0 / tokens)


def test_an_upstream_helps_as_far_as_it_is_faster_and_right() -> None:
    assert seconds_per_token(1.0, 0.1, (1.0,)) == pytest.approx(0.1, rel=0.01), "as fast as the upstream"
    assert seconds_per_token(0.9, 5.0, (1.0,)) == pytest.approx(1.0), "a slower upstream brings nothing"
    assert seconds_per_token(0.0, 0.1, (1.0,)) == pytest.approx(1.0), "nor does one that is never right"
