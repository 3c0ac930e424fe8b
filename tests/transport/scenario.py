"""What the ranks of an MPI job do in the tests: `python -m tests.transport.scenario NAME FOLDER`.

Each rank writes what it found to FOLDER/RANK.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mpispec.core.ids import Plane
from mpispec.transport import mpi
from mpispec.transport.base import TransportError
from mpispec.transport.mpi import MpiTransport, connect
from tests.transport.contract import LIMITS, PATIENCE, run_checks

Results = dict[str, object]


def contract(transport: MpiTransport) -> Results:
    """Keep the promises of every transport."""
    transport.open(LIMITS)
    return {
        "checks": run_checks(transport, lambda: transport.barrier(PATIENCE)),
        "has_doorbell": transport.has_doorbell,
    }


def collectives(transport: MpiTransport) -> Results:
    """Exchange what the set-up exchanges, before and after the planes are open."""
    own = bytes([transport.rank]) * (1000 * transport.rank)
    gathered = transport.allgather_bytes(own, 10_000)
    transport.open(LIMITS)
    transport.barrier()
    try:
        transport.allgather_bytes(bytes(transport.rank), 0)
        refusal = ""
    except TransportError as error:
        refusal = str(error)
    again = transport.allgather_bytes(b"", 0)
    return {
        "gathered": [[len(text), sorted(set(text))] for text in gathered],
        "refusal": refusal,
        "again": [len(text) for text in again],
    }


def unequal_limits(transport: MpiTransport) -> Results:
    """Open planes of different sizes."""
    limits = LIMITS if transport.rank == 0 else type(LIMITS)(data=1000)
    try:
        transport.open(limits)
    except TransportError as error:
        return {"refusal": str(error)}
    return {"refusal": ""}


def unreachable(transport: MpiTransport) -> Results:
    """Lose what rank 1 sends to rank 0 before the loop."""
    mpi.GREETING_SECONDS = 0.1
    if transport.rank == 1:
        transport.send = lambda dst, plane, parts: None  # type: ignore[method-assign]
    try:
        transport.open(LIMITS)
    except TransportError as error:
        print(error, file=sys.stderr)
        transport.abort(3)
    return {}


def unread(transport: MpiTransport) -> Results:
    """Leave with frames that nobody has read, short and long."""
    transport.open(LIMITS)
    for size in (10, LIMITS.data):
        transport.send((transport.rank + 1) % transport.size, Plane.DATA, (bytes(size),))
    return {}


def raises(transport: MpiTransport) -> Results:
    """Fail on one rank while the others wait for it."""
    transport.open(LIMITS)
    if transport.rank == 1:
        raise RuntimeError("rank 1 fails on purpose")
    while True:
        transport.wait(1.0)


def aborts(transport: MpiTransport) -> Results:
    """End the job from one rank with a code of its own."""
    transport.open(LIMITS)
    if transport.rank == transport.size - 1:
        transport.abort(42)
    while True:
        transport.wait(1.0)


SCENARIOS = {
    function.__name__: function
    for function in (contract, collectives, unequal_limits, unreachable, unread, raises, aborts)
}


def main(name: str, folder: str) -> None:
    """Run one scenario on this rank."""
    transport = connect()
    results = SCENARIOS[name](transport)
    Path(folder, f"{transport.rank}.json").write_text(json.dumps(results), encoding="utf-8")
    transport.close()
    transport.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
