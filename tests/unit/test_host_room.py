"""Hosts that are too small for their part are named before anything is loaded."""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgpack
import psutil
import pytest

from mpispec.compute.base import Part, StageSize
from mpispec.compute.factory import BACKENDS
from mpispec.compute.host_memory import Room, room
from mpispec.compute.llama_traits import SPARE_CELLS
from mpispec.runtime import host_room
from mpispec.runtime.group import JobError
from mpispec.runtime.host_room import check_memory
from mpispec.runtime.setup import JobOptions, Setup
from tests.unit.test_cores import UNIFIED, lay
from tests.unit.test_plan import _model

pytestmark = pytest.mark.unit

MB = 10**6
PLENTY = 10**9
OLD = (
    "3:cpu:/\n4:memory:/slurm/job\n0::/\n",
    "33 31 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n",
)


def rank(host: str, needed: int, left: int, limit: str = "", available: int = PLENTY) -> list[Any]:
    """Return what a rank says of itself; sizes in MB."""
    return [host, f"identity of {host}", needed * MB, left * MB, limit, available * MB]


def refusal(ranks: list[list[Any]], monkeypatch: pytest.MonkeyPatch, insist: bool = False) -> str:
    """Return what all ranks refuse a job with, as rank 0 sees it; empty if they do not."""
    host, identity, needed, left, limit, available = ranks[0]
    monkeypatch.setattr(host_room, "hostname", lambda: host)
    monkeypatch.setattr(host_room, "host_identity", lambda: identity)
    monkeypatch.setattr(host_room, "least_bytes", lambda *_: needed - host_room._LIBRARY_BYTES if needed else 0)
    monkeypatch.setattr(host_room, "room", lambda: Room(left, limit))
    monkeypatch.setattr(host_room.psutil, "virtual_memory", lambda: SimpleNamespace(available=available))
    others = [msgpack.packb(each) for each in ranks[1:]]
    transport = SimpleNamespace(allgather_bytes=lambda mine, bound: [mine, *others])
    group: Any = SimpleNamespace(rank=0, size=len(ranks), transport=transport)
    setup: Any = Setup(None, None, None, (), (), context=100)  # type: ignore[arg-type]
    try:
        check_memory(JobOptions(insist=insist), group, setup)
    except JobError as error:
        return str(error)
    return ""


def test_what_fits_is_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not refusal([rank("a", 900, 1000, available=1000), rank("b", 10, 20)], monkeypatch)
    assert not refusal([rank("a", 0, 1, available=1), rank("b", 0, 0)], monkeypatch), "nobody knows what is needed"


def test_the_rank_its_host_and_both_numbers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    said = refusal([rank("a", 900, 1000, available=1000), rank("b", 700, 500, available=500)], monkeypatch)
    assert said.startswith("Rank 1 on b needs 700 MB for weights and cells, and 500 MB are left there; ")
    assert "--layout" in said and "--insist" in said
    assert not refusal([rank("b", 700, 500, available=500)], monkeypatch, insist=True)


def test_ranks_of_a_host_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = [rank("a", 400, 1000, available=1000), rank("b", 1, 9, available=9), rank("a", 700, 900, available=900)]
    assert refusal(ranks, monkeypatch).startswith("Ranks 0 and 2 on a need 1100 MB for weights and cells, and 900 MB")


def test_a_limit_is_shared_by_those_that_have_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    free, bound = rank("a", 400, 1000, available=1000), rank("a", 300, 500, "the limit of /x", available=1000)
    assert not refusal([free, bound], monkeypatch)
    said = refusal([bound, free, bound], monkeypatch)
    assert said.startswith("Ranks 0 and 2 on a need 600 MB for weights and cells, and 500 MB are left there (the limit")
    other = rank("a", 300, 500, "the limit of /y", available=1000)
    assert not refusal([free, bound, other], monkeypatch)
    assert "1100 MB" in refusal([rank("a", 500, 1000, available=1000), bound, other], monkeypatch)


def test_the_nearest_limit_of_control_groups_is_found(tmp_path: Path) -> None:
    groups = {
        "sys/fs/cgroup/a/b/memory.max": "900000000",
        "sys/fs/cgroup/a/b/memory.current": "100000000",
        "sys/fs/cgroup/a/memory.max": "max",
        "sys/fs/cgroup/memory.max": "500000000",
        "sys/fs/cgroup/memory.current": "300000000",
        "sys/fs/cgroup/memory.stat": "anon 5\nactive_file 50000000\ninactive_file 10000000\nshmem 7\n",
    }
    lay(tmp_path, {"proc/self/cgroup": "0::/a/b\n", "proc/self/mountinfo": UNIFIED, **groups})
    assert room(tmp_path) == (260 * MB, "the memory limit of /sys/fs/cgroup")


def test_limits_of_version_1_are_found(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/memory/slurm/job"
    stat = "active_file 1\ninactive_file 2\ntotal_active_file 30000000\ntotal_inactive_file 0\n"
    numbers = {"limit_in_bytes": "400000000", "usage_in_bytes": "200000000", "stat": stat}
    files = {f"{group}/memory.{name}": text for name, text in numbers.items()}
    lay(tmp_path, {"proc/self/cgroup": OLD[0], "proc/self/mountinfo": OLD[1], **files})
    assert room(tmp_path) == (230 * MB, f"the memory limit of /{group}")
    (tmp_path / group / "memory.limit_in_bytes").write_text("9223372036854771712")
    assert room(tmp_path).limit == ""


def test_without_limits_the_host_s_memory_counts(tmp_path: Path) -> None:
    found = room(tmp_path)
    assert not found.limit
    assert 0 < found.n_bytes <= psutil.virtual_memory().total


def test_addresses_may_be_what_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1 << 20, 1 << 20))
    assert room(tmp_path) == (0, "ulimit -v")


def test_cells_and_logits_are_counted() -> None:
    model = replace(_model(layers=10), vocabulary=1000, cell_bytes=768)
    size = StageSize(context=2048, sequences=4, threads=1, most_rows=64)
    llama = BACKENDS["llama"]
    cells = (2048 + SPARE_CELLS) * 768
    assert llama.buffer_bytes(model, Part(range(4)), size) == 4 * cells
    assert llama.buffer_bytes(model, Part(range(4, 10)), size) == 6 * cells + 129 * 4 * 1000
    assert llama.buffer_bytes(model, Part(range(4), has_exit=True), size) == 4 * cells + 129 * 4 * 1000
