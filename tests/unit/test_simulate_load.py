"""A server under load in virtual time: its figures where they can be worked out by hand, and its table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mpispec.cli import main
from mpispec.core.ids import Token
from mpispec.load import Load, planned
from mpispec.sim.load import serve
from mpispec.sim.script import ScriptedTarget
from mpispec.sim.study import Study

pytestmark = pytest.mark.unit

STUDY = Study(num_stages=4, stage_s=0.010, draft_s=0.001, num_requests=4)
LOAD = Load(12, prompt=(8, 8), answer=(16, 16), concurrency=4, seed=3)


def _figures(name: str, study: Study = STUDY, load: Load = LOAD) -> dict[str, Any]:
    return serve(name, study, load).figures


def _simulate(*flags: str) -> Result:
    return CliRunner().invoke(main, ["simulate", *flags])


def test_requests_that_never_meet_get_what_one_alone_gets() -> None:
    found = _figures("plain", load=replace(LOAD, rate=0.1))
    assert found["requests"] == {"ok": 12, "cancelled": 0, "failed": 0}
    assert set(found["ttft_s"].values()) == {0.04}
    assert set(found["itl_ms"].values()) == {40.0}
    assert set(found["latency_s"].values()) == {0.64}
    assert found["fairness"] == 1.0


def test_as_many_clients_as_stages_fill_a_plain_pipeline() -> None:
    found = _figures("plain", load=replace(LOAD, answer=(100, 100)))
    assert found["tokens_per_s"] == pytest.approx(100.0, rel=0.02)
    assert 1.0 <= found["deciding_rows_per_run"] < 2.0, "requests that came together may share a run"
    assert list(found["idle"]) == ["stage 1", "stage 2", "stage 3", "stage 4"]
    assert max(found["idle"].values()) < 0.5


def test_a_single_client_leaves_a_plain_pipeline_idle() -> None:
    found = _figures("plain", load=replace(LOAD, concurrency=1))
    assert found["tokens_per_s"] == pytest.approx(25.0, rel=0.01)
    assert set(found["idle"].values()) == {0.75}


def test_long_prompts_of_any_length_are_read() -> None:
    """The second run of a prompt in tiles begins over the first, so that rows are computed twice (ADR 0021)."""
    found = _figures("plain", load=replace(LOAD, prompt=(530, 560), num_requests=3, concurrency=1))
    assert found["requests"]["ok"] == 3


def test_who_comes_while_all_places_are_taken_waits() -> None:
    burst = replace(LOAD, rate=1000.0)
    one, four = (_figures("plain", replace(STUDY, num_requests=places), burst) for places in (1, 4))
    assert one["ttft_s"]["most"] == pytest.approx(11 * 0.64 + 0.04, abs=0.1)
    assert four["ttft_s"]["most"] < one["ttft_s"]["most"] / 3
    assert one["fairness"] < four["fairness"]


def test_clients_hang_up_as_drawn() -> None:
    load = replace(LOAD, num_requests=40, cancel_share=0.5, answer=(30, 60))
    found = serve("pipeinfer", STUDY, load)
    drawn = {each.index for each in planned(load) if each.cancel_after is not None}
    cancelled = {each.planned.index for each in found.served if each.outcome == "cancelled"}
    assert cancelled == drawn
    assert found.figures["tokens"] < _figures("pipeinfer", load=replace(load, cancel_share=0.0))["tokens"]


@pytest.mark.parametrize("strategy", ["sync", "specpipe", "auto"])
def test_the_draft_is_counted_where_there_is_one(strategy: str) -> None:
    found = _figures(strategy, load=replace(LOAD, rate=20.0, cancel_share=0.3))
    assert 0.0 < found["idle"]["draft"] < 1.0
    assert 0.6 < found["acceptance_rate"] <= 1.0
    assert found["rows_per_run"] > 1.0


def test_a_load_repeats_itself() -> None:
    load = replace(LOAD, rate=10.0, cancel_share=0.3, prompt=(4, 40), answer=(8, 32))
    assert _figures("pipeinfer", load=load) == _figures("pipeinfer", load=load)


def test_an_answer_that_is_not_the_script_s_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    after = ScriptedTarget._after
    monkeypatch.setattr(ScriptedTarget, "_after", lambda *args: Token(after(*args) ^ (args[1].pos == 20)))
    with pytest.raises(AssertionError, match="plain changed the text of request 0"):
        _figures("plain")


def test_json_names_the_load_and_a_result_for_each_strategy() -> None:
    flags = ("--requests", "6", "--rate", "3", "--parallel", "2", "--tokens", "8-16", "--prompt-tokens", "4-12")
    done = _simulate(*flags, "--strategy", "plain,sync", "--json")
    found = json.loads(done.stdout)
    assert [result["strategy"] for result in found["results"]] == ["plain", "sync"]
    assert found["load"]["answer"] == [8, 16] and found["load"]["prompt"] == [4, 12]
    assert found["synthetic"] is True


def test_the_table_has_a_column_for_each_strategy() -> None:
    done = _simulate(
        "--requests", "6", "--tokens", "8", "--cancel", "0.5", "--strategy", "plain,sync", "--stages", "20"
    )
    lines = done.output.splitlines()
    heading = next(index for index, line in enumerate(lines) if line.split() == ["plain", "sync"])
    figures = lines[heading : lines.index("", heading)]
    assert len({len(line) for line in figures}) == 1
    assert figures[-2].startswith("idle, least") and figures[-1].startswith("idle, most")
    assert "each given up midway with chance 0.5" in done.output
    assert lines[-1].startswith("Synthetic: ")


@pytest.mark.parametrize("strategies", ["plain", "plain,sync"])
def test_png_is_drawn(strategies: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    png = tmp_path / "load.png"
    done = _simulate("--requests", "3", "--tokens", "4", "--strategy", strategies, "--png", str(png))
    assert done.exit_code == 0, done.output
    assert png.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--requests", "4", "--rate", "1", "--concurrency", "2"), "give one"),
        (("--tokens", "8-16"), "--tokens 8-16 is for many answers; give one length, or --requests."),
        (("--tokens", "16-8"), "'16-8' is no length; write a number from 2 on, or a range like 20-200."),
        (("--requests", "2", "--prompt-tokens", "0"), "'0' is no length"),
    ],
)
def test_errors_are_sentences(flags: tuple[str, ...], sentence: str) -> None:
    done = _simulate(*flags)
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert done.stdout == ""
