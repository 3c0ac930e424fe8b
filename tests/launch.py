"""Start real ranks from a test: any MPI, as root, with more ranks than cores, and never for longer than allowed.

The pytest process itself must not import mpi4py: that would make it an MPI process and its children orphans of it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).resolve().parent.parent
GRACE_SECONDS = 3.0
_OPENMPI_OPTIONS = ("--oversubscribe", "--allow-run-as-root", "--bind-to", "none", "--stream-buffering", "0")


@lru_cache
def find_mpiexec() -> str | None:
    """Return the mpiexec of this environment, or else of the system; None where there is no MPI."""
    return shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.prefix, "bin")), os.environ.get("PATH", "")]))


@lru_cache
def is_openmpi() -> bool:
    """Tell whether that mpiexec is Open MPI's, which needs options to do what MPICH's does."""
    mpiexec = find_mpiexec()
    if mpiexec is None:
        return False
    version = subprocess.run([mpiexec, "--version"], capture_output=True, text=True, check=False, timeout=30).stdout
    return "Open MPI" in version or "PRRTE" in version


def launch_command(n: int, argv: Sequence[str]) -> list[str]:
    """Return the command that starts `argv` on `n` ranks."""
    mpiexec = find_mpiexec()
    if mpiexec is None:
        raise FileNotFoundError("There is no mpiexec; install one of the extras mpich and openmpi.")
    options = _OPENMPI_OPTIONS if is_openmpi() else ()
    return [mpiexec, *options, "-n", str(n), *argv]


def run_ranks(
    n: int, argv: Sequence[str], timeout: float, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `argv` on `n` ranks from the repository's root and return what they printed and the exit code.

    `argv` starts with the program, usually `sys.executable`; `env` is added to the environment. Raises
    subprocess.TimeoutExpired with the output so far after `timeout` seconds, when nothing of the job is left.
    """
    command = launch_command(n, argv)
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as late:
        end_job(process)
        stdout, stderr = process.communicate()
        raise subprocess.TimeoutExpired(command, timeout, stdout, stderr) from late
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def end_job(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """End a launcher and all its descendants, ranks in process groups of their own included."""
    try:
        processes = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=GRACE_SECONDS)
    for survivor in alive:
        survivor.kill()
    psutil.wait_procs(alive, timeout=GRACE_SECONDS)
