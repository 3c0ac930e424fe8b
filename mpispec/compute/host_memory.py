"""How much memory this process may still take: what the host has left, or less where a limit is nearer."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import NamedTuple

import psutil

from mpispec.compute import control_groups

_CACHE = {"inactive_file", "active_file"}
"""Pages of files, which the kernel gives up before it kills a process of the group."""
_ADDRESSES = 256 << 20
"""What libraries, stacks of threads and pools of memory reserve and do not use, where addresses are counted."""


class Room(NamedTuple):
    """What is left."""

    n_bytes: int
    limit: str = ""
    """What sets it; empty where it is the host's memory."""


def room(root: Path = Path("/")) -> Room:
    """Return what this process may still take. `root` is the folder that holds `proc` and `sys`."""
    found = [Room(psutil.virtual_memory().available)]
    for folder in control_groups.folders("memory", root):
        limit = _number(folder / "memory.max", folder / "memory.limit_in_bytes")
        used = _number(folder / "memory.current", folder / "memory.usage_in_bytes")
        if limit is not None and used is not None:
            left = max(0, limit - max(0, used - _cached(folder)))
            found.append(Room(left, f"the memory limit of {Path('/', folder.relative_to(root))}"))
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most != resource.RLIM_INFINITY:
        left = most - psutil.Process().memory_info().vms - _ADDRESSES
        found.append(Room(max(0, left), "ulimit -v"))
    return min(found)


def _number(*files: Path) -> int | None:
    """Return the number in the first of these files that there is; None where it holds a word for no limit."""
    for file in files:
        if found := control_groups.words(file):
            return int(found[0]) if found[0].isdecimal() else None
    return None


def _cached(folder: Path) -> int:
    """Return the bytes of files that a group has read, those of groups within it included."""
    pairs = control_groups.words(folder / "memory.stat")
    stat = {name: int(count) for name, count in zip(pairs[::2], pairs[1::2], strict=False) if count.isdecimal()}
    # Version 1 counts the group alone, and all within it under names that begin so.
    return sum(stat.get(f"total_{name}", stat.get(name, 0)) for name in _CACHE)
