"""The launcher: what it says about this process, read without starting MPI, and whether it has read what we say.

A run on one rank must not need MPI at all, and a process started by the wrong launcher must be able to say so before
it tries; so nothing here imports mpi4py.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import stat
import sys
import termios
import time
from array import array
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Literal

Family = Literal["openmpi", "hydra", "slurm", "none"]


@dataclass(frozen=True, slots=True)
class Launch:
    """This process's place in its job."""

    family: Family
    """Who started us: Open MPI's mpirun, Hydra (MPICH, Intel MPI; also `srun --mpi=pmi2`), srun, or nobody."""
    rank: int
    size: int
    local_rank: int
    """Index among the processes of this host."""
    local_size: int
    """Number of processes on this host."""


_ALONE = Launch("none", 0, 1, 0, 1)


def read_launch(environ: Mapping[str, str] = os.environ) -> Launch:
    """Read the launcher's variables; a process without them is rank 0 of 1.

    SLURM comes last, because mpirun inside an allocation inherits its variables, and only its *step* counts: a batch
    script sees SLURM_NTASKS and SLURM_PROCID too, but is a single process.
    """
    openmpi = _numbers(environ, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")
    if openmpi:
        local = _numbers(environ, "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE") or (0, 1)
        return Launch("openmpi", *openmpi, *local)
    slurm_local = _slurm_local(environ)
    hydra = _numbers(environ, "PMI_RANK", "PMI_SIZE")
    if hydra:
        return Launch("hydra", *hydra, *(_numbers(environ, "MPI_LOCALRANKID", "MPI_LOCALNRANKS") or slurm_local))
    slurm = _numbers(environ, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
    if slurm:
        return Launch("slurm", *slurm, *slurm_local)
    return _ALONE


def launched_rank() -> int:
    """Return the rank that the launcher gave this process: of several strays, only 0 should complain."""
    return read_launch().rank


def hostname() -> str:
    """Return this host's own name."""
    return socket.gethostname()


def host_identity() -> str:
    """Return a text that two processes share exactly if they reach each other over 127.0.0.1.

    A host name alone is not enough: containers may share it, and so may network namespaces of one machine.
    """
    try:
        namespace = os.readlink("/proc/self/ns/net")
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
    except OSError:
        namespace = boot = ""
    return f"{hostname()} {namespace} {boot}"


def _numbers(environ: Mapping[str, str], rank_name: str, size_name: str) -> tuple[int, int] | None:
    """Read a rank and a size; None if either is missing or they make no sense together."""
    rank, size = environ.get(rank_name, ""), environ.get(size_name, "")
    if not (rank.isdecimal() and size.isdecimal()) or int(rank) >= int(size):
        return None
    return int(rank), int(size)


def _slurm_local(environ: Mapping[str, str]) -> tuple[int, int]:
    """Read index and number of the tasks on this node; SLURM writes the numbers of all nodes as `2(x3),1`."""
    counts = [
        repeat(int(tasks), int(times or 1))
        for tasks, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    ]
    node = environ.get("SLURM_NODEID", "0")
    per_node = dict(enumerate(chain.from_iterable(counts)))
    size = per_node.get(int(node) if node.isdecimal() else 0, 1)
    index = environ.get("SLURM_LOCALID", "0")
    return (int(index) if index.isdecimal() else 0), size


_LONGEST_READ_S = 1.0
_BETWEEN_LOOKS_S = 0.002


def say_all() -> None:
    """Wait, not for long, until the launcher has read what this process has said.

    Hydra forgets what is still in the pipe when a rank aborts: 1 of 20 failures came without its sentence.
    """
    with suppress(OSError):  # where nobody reads any more there is nothing to wait for
        sys.stdout.flush()
        sys.stderr.flush()
        pipes = [descriptor for descriptor in (1, 2) if stat.S_ISFIFO(os.fstat(descriptor).st_mode)]
        deadline = time.monotonic() + _LONGEST_READ_S
        while any(_num_unread(pipe) for pipe in pipes) and time.monotonic() < deadline:
            time.sleep(_BETWEEN_LOOKS_S)


def _num_unread(pipe: int) -> int:
    count = array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]
