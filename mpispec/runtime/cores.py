"""How many threads are worth starting here: processors that this process may use, less what only looks like one.

llama.cpp's threads wait for each other at barriers. A thread more than there is computing time for (a CPU quota gives
time, not processors), or a second one on the same physical core, keeps all of them waiting.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

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
    try:
        groups = (root / "proc/self/cgroup").read_text("utf-8", "replace").splitlines()
        mounts = (root / "proc/self/mountinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return float("inf")
    folders = [folder for group in groups for folder in _folders(group, mounts)]
    return min((_limit(root / folder) for folder in folders), default=float("inf"))


def _folders(group: str, mounts: list[str]) -> Iterator[str]:
    """Yield the folders of one line of /proc/self/cgroup, from its own up to the top of the mounted tree."""
    number, _, rest = group.partition(":")
    controllers, _, path = rest.partition(":")
    is_unified = number == "0"
    if not is_unified and "cpu" not in controllers.split(","):
        return
    for mount in mounts:
        before, _, after = mount.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] != ("cgroup2" if is_unified else "cgroup"):
            continue
        if not is_unified and "cpu" not in kind[2].split(","):
            continue
        below = _below(path, fields[3])
        yield from (str(PurePosixPath(fields[4].lstrip("/"), part)) for part in (below, *below.parents))
        return


def _below(path: str, top: str) -> PurePosixPath:
    """Return a group's path as seen in a mount that shows the tree from `top` on: containers get a part of it."""
    try:
        below = PurePosixPath(path).relative_to(top)
    except ValueError:
        return PurePosixPath()
    return PurePosixPath() if ".." in below.parts else below


def _limit(folder: Path) -> float:
    """Return the limit of one control group, in processors: version 2's `cpu.max`, else version 1's pair of files."""
    words = _words(folder / "cpu.max") or _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
    if len(words) != 2 or not all(word.isdecimal() for word in words) or int(words[1]) == 0:
        return float("inf")  # "max" and "-1" stand for no limit
    return int(words[0]) / int(words[1])


def _words(file: Path) -> list[str]:
    try:
        return file.read_text("ascii").split()
    except (OSError, UnicodeDecodeError):
        return []
