"""How many threads are worth starting here: processors that this process may use, less what only looks like one.

llama.cpp's threads wait for each other at barriers. A thread more than there is computing time for (a CPU quota gives
time, not processors), or a second one on the same physical core, keeps all of them waiting.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from mpispec.compute import control_groups
from mpispec.compute.control_groups import words

_SIBLINGS = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


@dataclass(frozen=True, slots=True)
class Cores:
    """What one process may compute with."""

    count: int
    """Threads that are worth starting, at least 1."""
    reason: str
    """Why that is fewer than the processors this process may run on; empty if it is not."""


def usable_cores(processors: Collection[int] | None = None, root: Path = Path("/")) -> Cores:
    """Return how many threads are worth starting on `processors`: by default those that this process may run on.

    At most one for each physical core, where siblings are visible, and at most the CPU quota, rounded down. `root` is
    the folder that holds `proc` and `sys`.
    """
    mine = sorted(os.sched_getaffinity(0) if processors is None else processors)
    physical = len({_siblings(processor, root) for processor in mine})
    quota = _quota(root)
    count = max(1, int(min(physical, quota)))
    if quota < physical:
        return Cores(count, f"the CPU quota is {quota:.3g} of {len(mine)} processors")
    return Cores(count, f"{len(mine)} processors are {count} physical cores" if count < len(mine) else "")


def _siblings(processor: int, root: Path) -> str:
    """Return the processors of the same physical core as the kernel lists them; this one alone where it does not."""
    try:
        return (root / _SIBLINGS.format(processor)).read_text("ascii").strip() or str(processor)
    except (OSError, UnicodeDecodeError):
        return str(processor)


def _quota(root: Path) -> float:
    """Return the processors' worth of time that all control groups of this process leave it; infinity for no limit."""
    return min((_limit(folder) for folder in control_groups.folders("cpu", root)), default=float("inf"))


def _limit(folder: Path) -> float:
    """Return the limit of one control group, in processors: version 2's `cpu.max`, else version 1's pair of files."""
    found = words(folder / "cpu.max") or words(folder / "cpu.cfs_quota_us") + words(folder / "cpu.cfs_period_us")
    if len(found) != 2 or not all(word.isdecimal() for word in found) or int(found[1]) == 0:
        return float("inf")  # "max" and "-1" stand for no limit
    return int(found[0]) / int(found[1])
