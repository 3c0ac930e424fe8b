"""Pictures of timelines, and one sentence for every file that is none."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest

from mpispec.core.effects import Compute, ComputeDraft, Emit
from mpispec.core.events import Computed, Drafted
from mpispec.core.messages import Cancel, Result, Row, Run
from mpispec.drawing import trace_file
from mpispec.drawing.trace_file import TraceError, read
from mpispec.drawing.trace_plot import WIDTH_PX, draw
from mpispec.trace import Trace, write

pytestmark = pytest.mark.unit


def run_of(run_id: int, pos: int) -> Run:
    return Run(run_id, (Row(0, pos, pos - 1, 7, pos, 0, True),))


def compute(trace: Trace, lane: str, start: float, run: Run, aborted: bool = False) -> None:
    trace.computed(lane, start, start + 0.008, Compute(run, None), Computed(run.run_id, None, (), aborted))


@pytest.fixture
def timeline(tmp_path: Path) -> Path:
    """A head with two stages and a draft: a prompt, a token, an accepted draft token, two rejected ones."""
    head, last, draft = Trace(is_on=True), Trace(is_on=True), Trace(is_on=True)
    for run_id, pos in enumerate((0, 1, 2, 3)):
        head.sent("head", run_id * 0.01, run_of(run_id, pos), 0)
        if run_id == 0:
            head.emitted(0.005, Emit(0, (1,), None, None))
        compute(head, "stage 1", run_id * 0.01, run_of(run_id, pos))
        compute(last, "stage 2", run_id * 0.01 + 0.01, run_of(run_id, pos), aborted=run_id == 3)
    head.emitted(0.035, Emit(0, (1, 1), "length", None))
    head.sent("head", 0.036, Cancel((3,)), 30)
    last.sent("stage 2", 0.05, Result(3, (), (), (), void=True), 30)
    step = ComputeDraft(run_of(0, 1), 1)
    draft.computed("draft", 0.0, 0.02, step, Drafted(0, (((5, 0.5),),), aborted=False))
    path = tmp_path / "trace.json"
    ranks = [("rank 0 (a): head, stage 1", head), ("rank 1 (b): stage 2", last), ("rank 2 (c): draft", draft)]
    write(path, [(name, 0.0, trace.events) for name, trace in ranks])
    return path


def test_reads_lanes_in_the_order_of_the_pipeline(timeline: Path) -> None:
    found = read(timeline, 0.0, None)
    assert [(lane.rank, lane.role) for lane in found.lanes] == [(2, "draft"), (0, "stage 1"), (1, "stage 2")]
    kinds = [box.kind for box in found.lanes[1].boxes]
    assert kinds == ["prefill", "base", "speculative", "superfluous"]
    assert [box.kind for box in found.lanes[2].boxes] == ["prefill", "base", "speculative", "aborted"]
    assert [accepted.tokens for accepted in found.accepted] == [1, 2]
    assert found.cancels == [0.036]
    assert found.lanes[2].voids == [0.05]


def test_runs_of_a_level_are_not_taken_for_the_targets(tmp_path: Path) -> None:
    """A level numbers its runs from 0 too, and cancels them by those numbers."""
    rank = Trace(is_on=True)
    rank.sent("head", 0.0, run_of(0, 0), 0)
    rank.emitted(0.001, Emit(0, (1,), None, None))
    rank.sent("head", 0.002, run_of(1, 2), 0)
    for run_id in range(2):
        compute(rank, "stage 1", 0.01 * run_id, run_of(run_id, run_id))
        compute(rank, "level 1 stage 1", 0.01 * run_id, run_of(run_id, run_id), aborted=run_id == 1)
    rank.sent("level 1 head", 0.02, Cancel((1,)), 0)
    path = tmp_path / "trace.json"
    write(path, [("rank 0 (a)", 0.0, rank.events)])
    found = read(path, 0.0, None)
    assert [lane.role for lane in found.lanes] == ["level 1 stage 1", "stage 1"]
    assert [(box.kind, box.run) for box in found.lanes[0].boxes] == [("level", None), ("aborted", None)]
    assert [(box.kind, box.run) for box in found.lanes[1].boxes] == [("prefill", 0), ("speculative", 1)]
    assert found.cancels == []


def test_reads_no_more_than_the_window(timeline: Path) -> None:
    found = read(timeline, 0.0215, 0.005)
    assert [box.run for lane in found.lanes for box in lane.boxes] == [2, 1]
    assert (found.start, found.end) == (0.0215, pytest.approx(0.0265))


@pytest.mark.parametrize(("start", "seconds"), [(0.0, None), (0.012, 0.004)])
def test_draws_a_picture_of_the_promised_width(
    timeline: Path, tmp_path: Path, start: float, seconds: float | None
) -> None:
    pytest.importorskip("matplotlib")
    png = tmp_path / "out.png"
    draw(timeline, png, start, seconds)
    picture = png.read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert struct.unpack(">I", picture[16:20]) == (WIDTH_PX,)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty"),
        ("hello", "is not a timeline"),
        ("[1, 2]", "is not a timeline"),
        ('{"traceEvents": []}', "is not a timeline"),
        ('{"displayTimeUnit": "ms", "traceEvents": [\n]}\n', "holds no compute"),
        ('{"displayTimeUnit": "ms", "traceEvents": [\n', "ends in the middle"),
        ('{"displayTimeUnit": "ms", "traceEvents": [\n{"ph": "X"\n]}', "line 2 is no JSON"),
        ('{"displayTimeUnit": "ms", "traceEvents": [\n7\n]}', "line 2 is no event"),
        ('{"displayTimeUnit": "ms", "traceEvents": [\n{}\n]}', "line 2 is no event"),
        ('{"displayTimeUnit": "ms", "traceEvents": [\n' + "[" * 100_000 + "\n]}", "line 2 is no JSON"),
    ],
)
def test_a_file_that_is_no_timeline_gives_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "trace.json"
    path.write_text(text)
    with pytest.raises(TraceError, match=sentence):
        read(path, 0.0, None)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"ts": 0.0', '"ts": "soon"'),
        ('"ts": 0.0', '"ts": -1'),
        ('"ts": 0.0', '"ts": NaN'),
        ('"ts": 0.0', '"ts": 1e999'),
        ('"pid": 0', '"pid": "zero"'),
        ('"name": "prefill"', '"name": ["prefill"]'),
        ('"tokens": 1', '"tokens": null'),
        ('"pos": [0, 0], "rows": 1, "decided": 1}, "ph": "X"', '"pos": [0]}, "ph": "X"'),
    ],
)
def test_a_damaged_event_gives_one_sentence(timeline: Path, old: str, new: str) -> None:
    text = timeline.read_text()
    assert old in text
    timeline.write_text(text.replace(old, new, 1))
    with pytest.raises(TraceError, match="is not a timeline"):
        read(timeline, 0.0, None)


def test_a_missing_file_a_folder_and_bytes_give_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot be read: No such file"):
        read(tmp_path / "none.json", 0.0, None)
    with pytest.raises(TraceError, match="cannot be read: Is a directory"):
        read(tmp_path, 0.0, None)
    noise = tmp_path / "noise"
    noise.write_bytes(bytes(range(256)) * 100)
    with pytest.raises(TraceError, match="is not a timeline"):
        read(noise, 0.0, None)


def test_a_window_without_computes_gives_one_sentence(timeline: Path) -> None:
    with pytest.raises(TraceError, match=r"--from 9 lies behind the timeline's end, 0\.050 s"):
        read(timeline, 9.0, None)
    with pytest.raises(TraceError, match="ordinary numbers"):
        read(timeline, float("nan"), None)


def test_too_many_computes_ask_for_a_shorter_part(timeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_file, "MOST_BOXES", 3)
    with pytest.raises(TraceError, match="choose a shorter one with --from and --seconds"):
        read(timeline, 0.0, None)


def test_a_picture_that_cannot_be_written_gives_one_sentence(timeline: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(TraceError, match="cannot be written"):
        draw(timeline, tmp_path / "none" / "out.png", 0.0, None)


def test_without_matplotlib_the_remedy_is_named(
    timeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(TraceError, match=r"mpispec\[plot\]"):
        draw(timeline, tmp_path / "out.png", 0.0, None)
