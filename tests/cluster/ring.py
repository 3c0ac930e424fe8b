"""A rank of a ring: pass the rank number on, then print one line of JSON with what came and where we are."""

import json
import os
import socket
import sys

import numpy as np
from mpi4py import MPI


def main() -> None:
    """Run as one rank."""
    world = MPI.COMM_WORLD
    after, before = (world.rank + 1) % world.size, (world.rank - 1) % world.size
    received = np.empty(1, dtype=np.int32)
    world.Sendrecv(np.array([world.rank], dtype=np.int32), after, recvbuf=received, source=before)
    line = {
        "rank": world.rank,
        "size": world.size,
        "host": socket.gethostname(),
        "received": int(received[0]),
        "cores": len(os.sched_getaffinity(0)),
    }
    sys.stdout.write(json.dumps(line) + "\n")


main()
