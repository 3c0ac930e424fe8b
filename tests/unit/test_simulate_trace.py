"""Timelines in virtual time: what `simulate --trace` writes, `mpispec trace` reads, and the times are the costs."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mpispec.cli import main
from mpispec.drawing.trace_file import Timeline, read

pytestmark = pytest.mark.unit

TOKENS = 30


def _simulate(path: Path, *flags: str) -> Result:
    return CliRunner().invoke(main, ["simulate", "--tokens", str(TOKENS), "--trace", str(path), *flags])


def _traced(path: Path, *flags: str) -> Timeline:
    assert _simulate(path, *flags).exit_code == 0
    return read(path, 0.0, None)


def test_plain_computes_each_token_on_one_stage_after_the_other(tmp_path: Path) -> None:
    found = _traced(tmp_path / "trace.json", "--strategy", "plain", "--stages", "3", "--stage-ms", "10")
    assert [(lane.rank, lane.role) for lane in found.lanes] == [(0, "stage 1"), (1, "stage 2"), (2, "stage 3")]
    runs = [[box for box in lane.boxes if box.kind == "base"] for lane in found.lanes]
    assert [len(boxes) for boxes in runs] == [TOKENS - 1] * 3
    for boxes in zip(*runs, strict=True):
        begins = [box.start for box in boxes]
        assert [begin - begins[0] for begin in begins] == pytest.approx([0.0, 0.010, 0.020])
    assert sum(accepted.tokens for accepted in found.accepted) == TOKENS
    assert found.accepted[-1].when == pytest.approx(runs[-1][-1].end)


def test_a_draft_has_the_second_rank_and_what_it_cost_in_vain_is_marked(tmp_path: Path) -> None:
    found = _traced(tmp_path / "trace.json", "--strategy", "pipeinfer", "--stages", "3", "--acceptance", "0.6")
    assert [(lane.rank, lane.role) for lane in found.lanes] == [
        (1, "draft"),
        (0, "stage 1"),
        (2, "stage 2"),
        (3, "stage 3"),
    ]
    assert {"prefill", "base", "speculative", "superfluous"} <= {box.kind for box in found.lanes[1].boxes}
    assert found.cancels
    assert all(lane.voids for lane in found.lanes[2:])


def test_a_level_of_a_cascade_shares_a_rank_with_its_head(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    found = _traced(path, "--strategy", "pipespec", "--stages", "2", "--cascade", "3:0.8,12:0.8")
    assert [(lane.rank, lane.role) for lane in found.lanes][:2] == [(1, "draft"), (3, "level 1 stage 1")]
    assert "rank 3: level 1 head, level 1 stage 1" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ((), "name it with --strategy"),
        (("--strategy", "plain", "--requests", "4"), "name it with --strategy"),
    ],
)
def test_a_timeline_is_of_one_answer(tmp_path: Path, flags: tuple[str, ...], sentence: str) -> None:
    result = _simulate(tmp_path / "trace.json", *flags)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert not (tmp_path / "trace.json").exists()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = _simulate(tmp_path / "none" / "trace.json", "--strategy", "plain")
    assert result.exit_code == 2
    assert "none/trace.json (No such file or directory)" in result.stderr
