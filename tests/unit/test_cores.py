"""Threads are counted by time and physical cores, on trees laid out as the kernel lays out /proc and /sys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from mpispec.runtime.cores import Cores, usable_cores

pytestmark = pytest.mark.unit

UNIFIED = "31 24 0:27 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
OLD = (
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
)


def lay(root: Path, files: Mapping[str, str]) -> Path:
    """Write files below `root`."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def unified(root: Path, group: str, limits: Mapping[str, str]) -> Path:
    """Lay out a machine with control groups of version 2, whose process is in `group`."""
    files = {"proc/self/cgroup": f"0::{group}\n", "proc/self/mountinfo": UNIFIED}
    return lay(root, files | {f"sys/fs/cgroup{folder}/cpu.max": text for folder, text in limits.items()})


def old(root: Path, group: str, limits: Mapping[str, int], top: str = "/") -> Path:
    """Lay out a machine with control groups of version 1; `limits` are quotas in a period of 0.1 s."""
    files = {
        "proc/self/cgroup": f"4:cpuset:/other\n3:cpu,cpuacct:{group}\n0::/\n",
        "proc/self/mountinfo": OLD.format(top=top),
    }
    for folder, quota in limits.items():
        files[f"sys/fs/cgroup/cpu,cpuacct{folder}/cpu.cfs_quota_us"] = f"{quota}\n"
        files[f"sys/fs/cgroup/cpu,cpuacct{folder}/cpu.cfs_period_us"] = "100000\n"
    return lay(root, files)


def test_without_limits_every_processor_counts(tmp_path: Path) -> None:
    assert usable_cores({0, 1, 5}, tmp_path) == Cores(3, "")
    assert usable_cores(range(4), unified(tmp_path, "/a", {"/a": "max 100000\n"})) == Cores(4, "")


@pytest.mark.parametrize(
    ("limit", "count"), [("250000 100000", 2), ("50000 100000", 1), ("400000 100000", 4), ("30000 10000", 3)]
)
def test_a_quota_is_rounded_down_and_at_least_one(tmp_path: Path, limit: str, count: int) -> None:
    assert usable_cores(range(8), unified(tmp_path, "/user/job", {"/user/job": limit})).count == count


def test_the_reason_names_quota_and_processors(tmp_path: Path) -> None:
    found = usable_cores(range(8), unified(tmp_path, "/job", {"/job": "250000 100000"}))
    assert found == Cores(2, "the CPU quota is 2.5 of 8 processors")


def test_a_quota_above_the_processors_changes_nothing(tmp_path: Path) -> None:
    assert usable_cores({0, 1}, unified(tmp_path, "/job", {"/job": "400000 100000"})) == Cores(2, "")


def test_the_tightest_group_on_the_way_up_counts(tmp_path: Path) -> None:
    limits = {"/a/b/c": "max 100000", "/a/b": "600000 100000", "/a": "300000 100000"}
    assert usable_cores(range(8), unified(tmp_path, "/a/b/c", limits)).count == 3


def test_in_a_container_the_top_of_the_tree_has_a_limit_too(tmp_path: Path) -> None:
    assert usable_cores(range(8), unified(tmp_path, "/", {"": "150000 100000"})).count == 1


def test_the_tightest_group_of_an_old_tree_counts(tmp_path: Path) -> None:
    assert usable_cores(range(8), old(tmp_path, "/a/b", {"/a/b": -1, "/a": 350000, "": -1})).count == 3


def test_a_container_sees_its_part_of_an_old_tree(tmp_path: Path) -> None:
    root = old(tmp_path, "/docker/abc/inner", {"": 250000, "/inner": -1}, top="/docker/abc")
    assert usable_cores(range(8), root).count == 2


def test_a_group_outside_what_is_mounted_is_looked_for_at_the_top(tmp_path: Path) -> None:
    assert usable_cores(range(8), unified(tmp_path, "/../other", {"": "200000 100000"})).count == 2
    elsewhere = old(tmp_path / "old", "/system", {"": 300000}, top="/docker/abc")
    assert usable_cores(range(8), elsewhere).count == 3


@pytest.mark.parametrize("limit", ["", "max", "-1 100000", "50000 0", "rubbish here", "1 2 3"])
def test_what_cannot_be_read_is_no_limit(tmp_path: Path, limit: str) -> None:
    assert usable_cores(range(8), unified(tmp_path, "/job", {"/job": limit})) == Cores(8, "")


def siblings(pairs: Mapping[int, str]) -> dict[str, str]:
    return {
        f"sys/devices/system/cpu/cpu{one}/topology/thread_siblings_list": f"{text}\n" for one, text in pairs.items()
    }


def test_hyperthreads_are_no_cores(tmp_path: Path) -> None:
    root = lay(tmp_path, siblings({0: "0,4", 4: "0,4", 1: "1,5", 5: "1,5", 2: "2", 3: "3"}))
    assert usable_cores({0, 1, 2, 3, 4, 5}, root) == Cores(4, "6 processors are 4 physical cores")


def test_only_siblings_that_may_be_used_are_looked_at(tmp_path: Path) -> None:
    root = lay(tmp_path, siblings({0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}))
    assert usable_cores({0, 1}, root).count == 1
    assert usable_cores({1, 2}, root) == Cores(2, "")


def test_the_smaller_of_quota_and_cores_counts(tmp_path: Path) -> None:
    root = lay(
        unified(tmp_path, "/job", {"/job": "300000 100000"}),
        siblings({n: f"{n - n % 2}-{n - n % 2 + 1}" for n in range(8)}),
    )
    assert usable_cores(range(8), root) == Cores(3, "the CPU quota is 3 of 8 processors")
    assert usable_cores(range(4), root) == Cores(2, "4 processors are 2 physical cores")


def test_this_process_has_a_core() -> None:
    assert usable_cores().count >= 1
