"""The ranks of a job stay together until rank 0 has written the timeline: leaving has a deadline of seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest

from mpispec.commands.generate import _keep_trace
from mpispec.runtime.group import JobError
from mpispec.runtime.job import Outcome
from mpispec.runtime.rank import RankReport

pytestmark = pytest.mark.unit

EVENT = ("driver", "wait", 1.0, 2.0, {})
OUTCOME = Outcome(None, [RankReport(rank, "host", ["stage 1"], [[0, 1]], 0.5, 0.0, [EVENT]) for rank in (0, 1)])


def group_of_two(rank: int, meet: Callable[[], None]) -> Any:
    """Return a group whose other rank is there already, and has no complaint, when `meet` is called."""

    def allgather(mine: bytes, limit: int) -> list[bytes]:
        meet()
        other = msgpack.packb(["elsewhere", ""])
        return [mine, other] if rank == 0 else [other, mine]

    return SimpleNamespace(rank=rank, size=2, transport=SimpleNamespace(allgather_bytes=allgather))


def test_the_timeline_is_whole_when_the_ranks_meet(tmp_path: Path) -> None:
    path, found = tmp_path / "trace.json", []
    _keep_trace(group_of_two(0, lambda: found.append(json.loads(path.read_text()))), path, OUTCOME)
    assert [{event["pid"] for event in whole["traceEvents"]} for whole in found] == [{0, 1}]


def test_a_rank_without_an_outcome_waits_for_the_file(tmp_path: Path) -> None:
    waited: list[bool] = []
    _keep_trace(group_of_two(1, lambda: waited.append(True)), tmp_path / "trace.json", None)
    assert waited == [True]
    assert not list(tmp_path.iterdir())


def test_a_timeline_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"^The trace cannot be written to .* \(Is a directory\); make room there\.$"):
        _keep_trace(group_of_two(0, lambda: None), tmp_path, OUTCOME)
