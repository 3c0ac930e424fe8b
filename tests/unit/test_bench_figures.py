"""The arithmetic behind `mpispec bench`: ratios, matrices, the law, the baseline."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from mpispec.bench import baseline, link, stage
from mpispec.bench.facts import facts_of_hosts, facts_sentence, host_facts
from mpispec.bench.group import bench
from mpispec.bench.law import Lap, Span, busy_share, bytes_per_token, compared_with_law, decoding, laps, step_s
from mpispec.bench.quick import BUDGET_S, FAST, NULL, PLAIN, TURNS, begins, figures, is_null
from mpispec.bench.skippable import Skippable, skipping
from mpispec.compute.base import Cancelled, Floats, StageOutput, StageRun
from mpispec.compute.toy import ToyStage
from mpispec.core.ids import RequestId
from mpispec.core.messages import Row, Run
from mpispec.models.default import resolve
from mpispec.models.errors import ModelError
from mpispec.models.registry import inspect
from mpispec.runtime.group import Group, JobError
from mpispec.runtime.job import RankReport
from mpispec.runtime.trial import row_of, timed, trial
from mpispec.sim.costs import law_speedup
from mpispec.transport.loopback import LoopbackTransport

pytestmark = pytest.mark.unit

FACTS = {"host", "cpu", "cores", "load", "kernel", "versions", "commit", "date"}


def test_facts_say_what_a_figure_was_measured_on() -> None:
    facts = host_facts()
    assert set(facts) >= FACTS
    assert facts["cores"] >= facts["usable_cores"] >= 1 and facts["memory_bytes"] > 0
    assert {"python", "mpispec", "llama-cpp-python"} <= set(facts["versions"])
    assert facts["cpu"] in facts_sentence(facts) and facts["date"] in facts_sentence(facts)
    json.dumps(facts)
    (alone,) = facts_of_hosts(Group(LoopbackTransport()))
    assert alone["ranks"] == [0] and alone["host"] == facts["host"]


# -- t(rows) ------------------------------------------------------------------------------------------------------


def test_rows_are_compared_with_the_one_row_run_of_their_turn() -> None:
    one, two = stage.report({1: [0.010, 0.020, 0.010], 2: [0.015, 0.030, 0.040]})
    assert one["ratio"] == {"p50": 1.0, "least": 1.0, "most": 1.0, "of_least": 1.0}
    assert two["ms"] == {"p50": 30.0, "least": 15.0, "most": 40.0}
    assert two["ratio"] == {"p50": 1.5, "least": 1.5, "most": 4.0, "of_least": 1.5}


def test_one_row_is_always_measured() -> None:
    assert stage.read_rows("8,2,2") == (1, 2, 8)


@pytest.mark.parametrize("text", ["", "0", "1,,2", "a", "1-4", "999"])
def test_rows_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ModelError, match="--rows"):
        stage.read_rows(text)


def test_layers_are_a_range_within_the_model() -> None:
    model = inspect(resolve(None))
    assert stage.read_layers("3-5", model) == range(3, 6)
    middle = stage.read_layers(None, model)
    assert 0 < middle.start < middle.stop < model.layers
    for text in ("5-3", "0-30", "3", "x"):
        with pytest.raises(ModelError, match="--layers"):
            stage.read_layers(text, model)


@pytest.mark.parametrize("requests", stage.REQUESTS)
def test_rows_follow_what_is_cached_of_their_requests(requests: str) -> None:
    """On the toy, where a row over a hole or over another's cells is an error."""
    load = stage.Load((1, 2, 4), 3, 5, 1, requests=requests)
    contexts, sequences = (4, 1) if requests == "own" else (1, 4)
    model = ToyStage(0, True, 8, contexts=contexts, sequences=sequences)
    seconds = stage._in_turns(model, None, load)
    assert {size: len(times) for size, times in seconds.items()} == {1: 5, 2: 5, 4: 5}
    for seq in range(1 if requests == "one" else 4):
        timed(model, [row_of(seq, load.past)], None)


# -- links --------------------------------------------------------------------------------------------------------


def test_a_rate_belongs_to_a_direction_and_a_latency_to_both() -> None:
    latency = {"p50": 40.0, "p95": 50.0}
    there = {"from": 0, "to": 1, "small_us": latency, "row_us": latency, "mbit_per_s": 100.0}
    links = list(link._merged([{"from": 1, "to": 0, "mbit_per_s": 90.0}, there]))
    assert [(each["from"], each["to"], each["mbit_per_s"]) for each in links] == [(0, 1, 100.0), (1, 0, 90.0)]
    assert all(each["small_us"] == latency for each in links)
    shown = "\n".join(link.lines({"ranks": 2, "row_bytes": 2304, "links": links}))
    assert "2304 bytes" in shown and "100" in shown and "90" in shown


# -- the law ------------------------------------------------------------------------------------------------------


def report_of(tokens: int, accepted: int, tokens_per_s: float | None) -> dict[str, Any]:
    return {"tokens": tokens, "speculation": {"accepted": accepted}, "timing": {"tokens_per_s": tokens_per_s}}


def test_a_plain_pipeline_without_overhead_achieves_the_law() -> None:
    found = compared_with_law(report_of(11, 0, 1 / 0.04), [0.010, 0.008, 0.009, 0.010])
    assert found["tau_ms"] == 10.0 and found["law_speedup"] == 1.0
    assert found["law_tokens_per_s"] == 25.0 and found["achieved_over_law"] == 1.0


def test_tokens_without_a_draft_token_count_as_rejections() -> None:
    found = compared_with_law(report_of(11, 5, 20.0), [0.010] * 4)
    assert found["acceptance_rate_of_all"] == 0.5
    assert found["law_speedup"] == round(law_speedup(4, 0.5), 3)
    assert found["achieved_over_law"] == pytest.approx(20.0 * 0.010 * (1 + 0.5 * 3), abs=1e-4)


def test_a_draft_slower_than_a_stage_sets_the_pace_of_accepted_tokens_alone() -> None:
    at_stages, at_draft = (compared_with_law(report_of(11, 5, 20.0), [0.010] * 4, draft) for draft in (0.004, 0.020))
    assert at_stages["paced_tokens_per_s"] == at_stages["law_tokens_per_s"]
    assert at_draft["law_tokens_per_s"] == at_stages["law_tokens_per_s"]
    assert at_draft["achieved_over_paced"] == pytest.approx(20.0 * (0.5 * 0.020 + 0.5 * 4 * 0.010), abs=1e-4)


def test_an_exit_drafts_after_the_stages_before_it() -> None:
    first, second = (compared_with_law(report_of(11, 5, 20.0), [0.010] * 4, exit_stage=stage) for stage in (1, 2))
    assert first["law_speedup"] == round(law_speedup(4, 0.5), 3)
    assert second["law_speedup"] == round(law_speedup(2, 0.5), 3)


def test_an_answer_whose_end_was_drafted_has_no_more_than_all_tokens_drafted() -> None:
    assert compared_with_law(report_of(3, 3, 20.0), [0.010] * 4)["acceptance_rate_of_all"] == 1.0


@pytest.mark.parametrize(
    ("tokens", "speed", "stage_s"), [(1, None, [0.01, 0.01]), (11, 20.0, [0.01, None]), (0, None, [None])]
)
def test_what_cannot_be_known_is_none(tokens: int, speed: float | None, stage_s: list[float | None]) -> None:
    assert compared_with_law(report_of(tokens, 0, speed), stage_s)["achieved_over_law"] is None


def test_laps_are_read_on_the_clock_of_rank_0() -> None:
    events = [
        ("driver", "accept", 1.0, 1.0, {"request": 0, "tokens": 1, "finish": "length"}),
        ("driver", "accept", 2.0, 2.0, {"request": 1, "tokens": 1, "finish": None}),
        ("stage 1", "run", 2.0, 2.5, {"run": 7, "rows": 1}),
        ("stage 1", "aborted", 2.5, 2.75, {"run": 8, "rows": 1}),
        ("driver", "accept", 4.0, 4.0, {"request": 1, "tokens": 2, "finish": "length"}),
        ("driver", "accept", 5.0, 5.0, {"request": 1, "tokens": 0, "finish": None}),
    ]
    rank = RankReport(0, "here", ["head", "stage 1"], [[0, 9]], 0.5, 10.0, events)
    assert decoding(rank) == Span(12.0, 14.0)
    run, aborted = laps(rank)
    assert run == Lap("stage 1", Span(12.0, 12.5), 1, is_whole=True) and not aborted.is_whole
    assert busy_share([run, aborted], decoding(rank)) == pytest.approx(0.375)
    assert busy_share([], decoding(rank)) is None


def test_weights_that_stages_share_are_read_once_in_a_pass() -> None:
    at_once = [Lap(f"stage {index}", Span(1.0, 2.0), 1, True) for index in (1, 2, 3)]
    alone, before = Lap("stage 1", Span(3.0, 4.0), 1, True), Lap("stage 1", Span(0.0, 0.5), 1, True)
    draft, elsewhere = Lap("draft", Span(3.0, 3.5), 1, True), [Lap("stage 4", Span(1.0, 2.0), 1, True)]
    held = {f"stage {index}": 100 for index in (1, 2, 3, 4)}
    computed = [[*at_once, alone, before, draft], elsewhere]
    assert bytes_per_token(held, computed, Span(0.9, 8.0), tokens=4) == 100
    assert bytes_per_token(held, computed, Span(0.9, 8.0), tokens=1) is None


def test_runs_that_are_skipped_are_left_out_of_a_pass() -> None:
    model = inspect(resolve(None))
    rows = [Row(RequestId(request), 1, 0, token, 0, 0, True) for request, token in ((0, 5), (1, 7))]
    stages = [
        Skippable(ToyStage(0, True, 8), model, is_last=True, is_skipped=lambda request: request == 1) for _ in rows
    ]
    runs = [StageRun(stage, Run(0, (row,)), None, bool) for stage, row in zip(stages, rows, strict=True)]

    def together(computed: Sequence[StageRun]) -> list[StageOutput | None]:
        assert [run.stage for run in computed] == [stages[0].inner]
        return [None]

    given_up, skipped = skipping(together)(runs)
    assert given_up is None
    assert skipped is not None
    assert skipped.logits.argmax() == 7


def test_a_step_is_the_median_of_enough_whole_runs_of_one_row() -> None:
    whole = [Lap("stage 1", Span(float(at), at + 0.5), 1, True) for at in range(5)]
    others = [
        Lap("stage 1", Span(1.0, 9.0), 4, True),
        Lap("stage 1", Span(1.0, 1.1), 1, False),
        Lap("stage 2", Span(1.0, 1.1), 1, True),
        Lap("stage 1", Span(9.0, 9.1), 1, True),
    ]
    assert step_s(whole + others, "stage 1", Span(0.0, 8.0)) == 0.5
    assert step_s(whole[1:], "stage 1", Span(0.0, 8.0)) is None


# -- quick --------------------------------------------------------------------------------------------------------


def test_only_null_requests_go_without_arithmetic() -> None:
    assert [is_null(RequestId(number)) for number in range(6)] == [False, True, False] * 2
    model = inspect(resolve(None))
    inner = ToyStage(0, is_last=True, vocabulary=8)
    last = Skippable(inner, model, True, is_null)
    null = Run(0, [Row(1, pos, pos - 1, 5 + pos, pos, 0, pos > 0) for pos in range(3)])
    logits = last.forward(null, None, bool)
    assert logits is not None and logits.shape == (2, model.vocabulary)
    assert list(np.argmax(logits, axis=1)) == [6, 7]
    computed = last.forward(Run(0, [Row(0, 0, -1, 5, 0, 0, True)]), None, bool)
    assert computed is not None and computed.shape == (1, 8)
    first = Skippable(inner, model, False, is_null)
    passed = first.forward(null, None, bool)
    assert passed is not None and passed.shape == (3, model.width)
    assert first.forward(null, passed, bool) is passed


def test_what_runs_cost_is_measured_with_arithmetic() -> None:
    """Before the first request, by rows of request 0."""
    counted = []

    class Counting(ToyStage):
        def forward(self, run: Run, activations: Floats | None, cancelled: Cancelled) -> Floats | None:
            counted.append(len(run.rows))
            return super().forward(run, activations, cancelled)

    stage = Skippable(Counting(0, is_last=True, vocabulary=8), inspect(resolve(None)), True, is_null)
    trial(stage, 3, None)
    assert counted == [3]


def test_slow_turns_are_few() -> None:
    assert [begins(turn, 1.0) for turn in range(TURNS + 1)] == [True] * TURNS + [False]
    assert [begins(turn, BUDGET_S) for turn in range(3)] == [True, True, False]


def timing(tokens_per_s: float | None, gap_ms: float | None) -> dict[str, Any]:
    return {"tokens_per_s": tokens_per_s, "itl_ms": {"p50": gap_ms}}


def quick_run(fast: float, null_ms: float) -> dict[str, Any]:
    timings = {
        NULL: [timing(900.0, null_ms)] * 3,
        PLAIN: [timing(20.0, 50.0)] * 3,
        FAST: [timing(fast + add, 10.0) for add in (-2.0, 0.0, 2.0)],
    }
    return figures({"ranks": 2, "cores": 2}, timings, [])


def test_a_quick_run_is_ratios_of_turns() -> None:
    found = quick_run(40.0, 1.0)
    assert found["ratios"]["speculation_over_plain"] == {"p50": 2.0, "least": 1.9, "most": 2.1}
    assert found["ratios"]["null_over_plain"] == {"p50": 0.02, "least": 0.02, "most": 0.02}
    with pytest.raises(JobError, match="one token"):
        figures({}, {kind: [timing(None, None)] for kind in (NULL, PLAIN, FAST)}, [])


def test_only_what_is_worse_than_the_spread_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    assert baseline.read(file) == []
    baseline.write(file, [], quick_run(40.0, 1.0))
    entries = baseline.read(file)
    assert baseline.complaints(quick_run(39.0, 1.0), entries) == []
    assert baseline.complaints(quick_run(80.0, 0.5), entries) == []
    slower, costlier = baseline.complaints(quick_run(30.0, 2.0), entries)
    assert "speculation_over_plain is 1.5" in slower and "null_over_plain is 0.04" in costlier
    (unknown,) = baseline.complaints(quick_run(30.0, 2.0) | {"setting": {"ranks": 9, "cores": 2}}, entries)
    assert "ranks (9)" in unknown
    baseline.write(file, entries, quick_run(50.0, 1.0))
    assert len(baseline.read(file)) == 1


def test_what_is_no_baseline_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"entries": [{}]}')
    with pytest.raises(JobError, match="no baseline"):
        baseline.read(tmp_path / "other.json")
    with pytest.raises(JobError, match="cannot be written"):
        baseline.write(tmp_path / "none" / "baseline.json", [], quick_run(40.0, 1.0))


def test_the_committed_baseline_can_be_read() -> None:
    assert baseline.read(baseline.OWN)


# -- command lines ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hop", "stage", "link", "generate"])
def test_every_benchmark_says_what_it_measures(name: str) -> None:
    result = CliRunner().invoke(bench, [name, "--help"])
    assert result.exit_code == 0 and "--json" in result.output
