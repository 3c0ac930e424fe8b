"""How a rank joins the others: by the right launcher, and not for ever where it cannot reach one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mpispec.transport.base import SharedError
from mpispec.transport.environment import hostname

UNANSWERED_SECONDS = 20.0
"""A first packet is sent again after 1, 3, 7 and 15 s; a host that is only slow answers it all the same."""


@contextmanager
def watched(rank: int, seconds: float = UNANSWERED_SECONDS) -> Iterator[None]:
    """Have this process ended with a sentence where a host does not answer its connections for so long.

    By another process, because MPI holds this one's interpreter.
    """
    program = Path(__file__).with_name("start_watch.py")
    command = [sys.executable, "-I", "-S", str(program), str(os.getpid()), str(rank), hostname(), str(seconds)]
    # Not in our session: Ctrl-C is for ranks.
    watch = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        yield
    finally:
        watch.communicate()


def wrong_launcher(vendor: str) -> SharedError:
    """Return what is said of a job whose ranks find no peers in the MPI of this name."""
    own = os.path.join(sys.prefix, "bin", "mpirun")
    remedy = own if os.path.exists(own) else f"the mpirun of the {vendor} that mpi4py uses"
    return SharedError(
        f"The launcher of this job does not belong to the installed MPI, {vendor}, so its ranks find no peers; "
        f"start mpispec with {remedy}, or under SLURM with the srun --mpi plugin made for {vendor}."
    )
