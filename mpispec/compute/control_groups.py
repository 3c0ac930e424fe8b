"""The control groups that this process is in: what containers, pods and slices are limited by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def folders(controller: str, root: Path = Path("/")) -> list[Path]:
    """Return the folders of the groups that limit this process, each before the ones that it lies in.

    `controller` is the kernel's word, such as `cpu`; groups of version 2 have all. `root` is the folder that holds
    `proc` and `sys`.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text("utf-8", "replace").splitlines()
        mounts = (root / "proc/self/mountinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
    return [root / folder for group in groups for folder in _folders(controller, group, mounts)]


def words(file: Path) -> list[str]:
    """Return the words of a file of a group, none where it cannot be read."""
    try:
        return file.read_text("ascii").split()
    except (OSError, UnicodeDecodeError):
        return []


def _folders(controller: str, group: str, mounts: list[str]) -> Iterator[str]:
    """Yield the folders of one line of /proc/self/cgroup, from its own up to the top of the mounted tree."""
    number, _, rest = group.partition(":")
    controllers, _, path = rest.partition(":")
    is_unified = number == "0"
    if not is_unified and controller not in controllers.split(","):
        return
    for mount in mounts:
        before, _, after = mount.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] != ("cgroup2" if is_unified else "cgroup"):
            continue
        if not is_unified and controller not in kind[2].split(","):
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
