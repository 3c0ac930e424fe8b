"""What a timeline says of runs, and that its JSON is what trace viewers read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mpispec import trace as tracing
from mpispec.core.effects import Compute, Emit
from mpispec.core.events import Computed
from mpispec.core.messages import Cancel, Message, Result, Row, Run
from mpispec.trace import Trace, kinds_of_runs, write

pytestmark = pytest.mark.unit


def run_of(run_id: int, *positions: int, prompt: int = 0) -> Run:
    """Return a run whose rows decide, but for those inside a prompt of `prompt` tokens."""
    rows = tuple(Row(0, pos, pos - 1, 7, pos, 0, pos >= prompt - 1) for pos in positions)
    return Run(run_id, rows)


def computed(trace: Trace, lane: str, start: float, run: Run, aborted: bool = False) -> None:
    trace.computed(lane, start, start + 0.002, Compute(run, None), Computed(run.run_id, None, (), aborted))


def head_of(*happened: Message | int) -> Trace:
    """Return the trace of a head that sent these messages and accepted these numbers of tokens, in order."""
    trace = Trace(is_on=True)
    for index, what in enumerate(happened):
        if isinstance(what, int):
            trace.emitted(index * 0.001, Emit(0, (1,) * what, None, None))
        else:
            trace.sent("head", index * 0.001, what, 10)
    return trace


def test_runs_are_distinguished_by_what_was_accepted_when_they_were_dispatched() -> None:
    prompt = [run_of(0, 0, 1, prompt=3), run_of(1, 2, prompt=3)]
    trace = head_of(*prompt, run_of(2, 3), 1, run_of(3, 3), run_of(4, 4), run_of(5, 5), 2, Cancel((2, 3, 5)))
    assert kinds_of_runs(trace.events) == {
        0: "prefill",
        1: "prefill",
        2: "superfluous",
        3: "base",
        4: "speculative",
        5: "superfluous",
    }


def test_a_run_passed_on_by_a_stage_is_no_dispatch() -> None:
    trace = head_of(run_of(0, 0, prompt=1))
    trace.sent("stage 1", 0.5, run_of(0, 0, prompt=1), 10)
    trace.sent("stage 1", 0.6, Run(1, (), (), void=True), 10)
    assert kinds_of_runs(trace.events) == {0: "prefill"}


def written(path: Path) -> list[dict[str, Any]]:
    """Write two ranks whose clocks differ by 5 s, and read the events back."""
    head = head_of(run_of(0, 0, prompt=1), 1, run_of(1, 1), Result(1, (), (), ()))
    stage = Trace(is_on=True)
    for run_id in (0, 1):
        computed(head, "stage 1", 0.01 + run_id / 10, run_of(run_id, run_id))
        computed(stage, "stage 2", 5.02 + run_id / 10, run_of(run_id, run_id))
    computed(stage, "stage 2", 5.5, run_of(2, 2), aborted=True)
    write(path, [("rank 0 (a): head, stage 1", 0.0, head.events), ("rank 1 (b): stage 2", -5.0, stage.events)])
    events: list[dict[str, Any]] = json.loads(path.read_text())["traceEvents"]
    return events


def test_the_json_is_a_chrome_trace(tmp_path: Path) -> None:
    events = written(tmp_path / "trace.json")
    for event in events:
        assert type(event["pid"]) is int and type(event["tid"]) is int
        assert event["ph"] in "XiMstf"
        if event["ph"] != "M":
            assert event["ts"] >= 0
        if event["ph"] == "X":
            assert event["dur"] > 0
    lanes = {(event["pid"], event["args"]["name"]) for event in events if event["name"] == "thread_name"}
    assert lanes == {(0, "driver"), (0, "stage 1"), (1, "stage 2")}


def test_clocks_are_merged_and_computes_named(tmp_path: Path) -> None:
    events = written(tmp_path / "trace.json")
    computes = [(event["name"], event["pid"], event["ts"]) for event in events if event["ph"] == "X"]
    assert sorted(computes, key=lambda compute: compute[2]) == [
        ("prefill", 0, 10_000.0),
        ("prefill", 1, 20_000.0),
        ("base", 0, 110_000.0),
        ("base", 1, 120_000.0),
        ("aborted", 1, 500_000.0),
    ]


def test_arrows_join_the_computes_of_a_run(tmp_path: Path) -> None:
    events = written(tmp_path / "trace.json")
    begins = {(event["pid"], event["tid"], event["ts"]) for event in events if event["ph"] == "X"}
    arrows = [event for event in events if event["ph"] in "stf"]
    assert [(arrow["ph"], arrow["id"], arrow["pid"]) for arrow in arrows] == [
        ("s", 0, 0),
        ("f", 0, 1),
        ("s", 1, 0),
        ("f", 1, 1),
    ]
    assert all((arrow["pid"], arrow["tid"], arrow["ts"]) in begins for arrow in arrows)


def test_a_trace_is_bounded_and_says_what_it_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "MOST_EVENTS", 3)
    trace = Trace(is_on=True)
    for index in range(5):
        trace.add("driver", "wait", float(index), index + 0.5, {})
    assert [name for _, name, *_ in trace.events] == ["wait", "wait", "wait", "2 events left out"]


def test_nothing_is_recorded_while_off() -> None:
    trace = Trace(is_on=False)
    trace.sent("head", 0.0, Cancel((1,)), 10)
    trace.emitted(0.0, Emit(0, (1,), None, None))
    computed(trace, "stage 1", 0.0, run_of(0, 0))
    assert trace.events == []


def test_while_timed_only_computes_and_accepted_tokens_are_recorded() -> None:
    trace = Trace(is_on=False, is_timed=True)
    trace.sent("head", 0.0, Cancel((1,)), 10)
    computed(trace, "stage 1", 0.0, run_of(0, 0))
    trace.emitted(1.0, Emit(0, (1,), None, None))
    assert [(lane, name) for lane, name, *_ in trace.events] == [("stage 1", "run"), ("driver", "accept")]
