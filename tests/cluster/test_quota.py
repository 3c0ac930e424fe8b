"""Threads under a real CPU quota: a control group of this machine, where one can be made."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.cluster

PERIOD_US = 100_000
ASK = "from mpispec.runtime.cores import usable_cores; found = usable_cores(); print(found.count, found.reason)"


def parent_group() -> Path:
    """Return where a group with a quota can be made; skip the test where there is no such place."""
    for parent in (Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup/cpu,cpuacct")):
        if (parent / "cpu.shares").exists():
            return parent
    unified = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError):
        if "cpu" in (unified / "cgroup.subtree_control").read_text().split():
            return unified
    pytest.skip("there is no control group with the cpu controller here")


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group inside another one, both of this test."""
    outer = parent_group() / f"mpispec-test-quota-{os.getpid()}"
    inner = outer / "inner"
    try:
        outer.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error.strerror}")
    try:
        if (outer / "cgroup.subtree_control").exists():
            (outer / "cgroup.subtree_control").write_text("+cpu")
        inner.mkdir()
        yield inner
    finally:
        for folder in (inner, outer):
            if folder.exists():
                folder.rmdir()


def give(group: Path, processors: float) -> None:
    """Set a group's quota."""
    quota = round(processors * PERIOD_US)
    if (group / "cpu.cfs_quota_us").exists():
        (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
        (group / "cpu.cfs_quota_us").write_text(str(quota))
    else:
        (group / "cpu.max").write_text(f"{quota} {PERIOD_US}")


def ask_in(group: Path) -> str:
    """Return what a process in `group` says of its cores."""
    enter = f'echo $$ > {group}/cgroup.procs && exec "$@"'
    argv = ["sh", "-c", enter, "sh", sys.executable, "-c", ASK]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor: a quota cannot take a thread away")
def test_a_quota_above_the_own_group_is_seen(group: Path) -> None:
    without = int(ask_in(group).split()[0])
    give(group.parent, 1.5)
    assert ask_in(group) == (
        f"1 the CPU quota is 1.5 of {len(os.sched_getaffinity(0))} processors" if without > 1 else "1"
    )
    give(group, 0.5)
    assert ask_in(group) == f"1 the CPU quota is 0.5 of {len(os.sched_getaffinity(0))} processors"
