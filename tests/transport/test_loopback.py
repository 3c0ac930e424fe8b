"""Ranks of one process keep the same contract as MPI ranks."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from mpispec.core.ids import Plane
from mpispec.transport.base import Transport, TransportError
from mpispec.transport.loopback import MAX_WAITING_FRAMES, LoopbackFabric, LoopbackTransport
from tests.transport.contract import CHECKS, LIMITS, run_checks

pytestmark = pytest.mark.transport


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_threads_keep_the_contract(size: int) -> None:
    fabric = LoopbackFabric(size, LIMITS)
    barrier = threading.Barrier(size)

    def run(member: LoopbackTransport) -> dict[str, str]:
        results = run_checks(member, barrier.wait)
        if set(results.values()) != {"ok"}:
            barrier.abort()
        return results

    with ThreadPoolExecutor(size) as threads:
        for results in threads.map(run, fabric.members):
            assert results == dict.fromkeys(CHECKS, "ok")
    for member in fabric.members:
        member.close()


def test_a_rank_alone_keeps_the_contract_once_opened() -> None:
    transport = LoopbackTransport()
    with pytest.raises(TransportError, match="before the planes are open"):
        transport.send(0, Plane.DATA, (b"x",))
    transport.open(LIMITS)
    as_seen_by_the_driver: Transport = transport
    assert run_checks(as_seen_by_the_driver, transport.barrier) == dict.fromkeys(CHECKS, "ok")
    transport.barrier()
    assert transport.allgather_bytes(b"plan", 4) == [b"plan"]
    with pytest.raises(TransportError, match="5 bytes exceeds the agreed 4"):
        transport.allgather_bytes(b"plans", 4)
    transport.close()
    transport.close()
    transport.wake()


def test_a_mailbox_that_nobody_empties_is_bounded() -> None:
    transport = LoopbackTransport(LIMITS)
    for _ in range(MAX_WAITING_FRAMES):
        transport.send(0, Plane.CONTROL, (b"x",))
    with pytest.raises(TransportError, match="has stopped taking frames"):
        transport.send(0, Plane.CONTROL, (b"x",))
    transport.close()
