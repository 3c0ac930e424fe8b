"""What every transport promises, as checks that all ranks of a job run at the same time.

The same checks run on threads over the loopback fabric and in processes over MPI, so the one is a verified stand-in
for the other. Every wait has a deadline: a broken promise fails the check, it does not hang the job.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from mpispec.core.ids import Plane
from mpispec.transport.base import Frame, Limits, Transport, TransportError

LIMITS = Limits(data=6 << 20, control=64 << 10, draft=64 << 10)
PATIENCE = 60.0
"""Seconds after which a check gives up; only a broken transport ever comes near."""


def receive(transport: Transport, plane: Plane) -> Frame:
    """Return the next frame of a plane, waiting as the driver does."""
    deadline = time.monotonic() + PATIENCE
    while (frame := transport.poll(plane)) is None:
        assert time.monotonic() < deadline, f"rank {transport.rank} got nothing on {plane.name}"
        transport.reap()
        transport.wait(0.05)
    return frame


def drain_sends(transport: Transport) -> None:
    """Wait until all sends have left."""
    deadline = time.monotonic() + PATIENCE
    while transport.reap():
        assert time.monotonic() < deadline, f"rank {transport.rank} cannot get rid of its sends"
        transport.wait(0.001)


def check_order_is_kept_for_each_pair_and_plane(transport: Transport) -> None:
    num_frames = 200
    for number in range(num_frames):
        for dst in range(transport.size):
            for plane in Plane:
                text = f"{transport.rank} {dst} {plane} {number}".encode()
                transport.send(dst, plane, (text[:3], memoryview(text)[3:], b"."))
    for plane in Plane:
        expected = [0] * transport.size
        for _ in range(num_frames * transport.size):
            frame = receive(transport, plane)
            assert frame.data == f"{frame.src} {transport.rank} {plane} {expected[frame.src]}.".encode()
            expected[frame.src] += 1
        assert expected == [num_frames] * transport.size


def check_planes_do_not_wait_for_each_other(transport: Transport) -> None:
    dst = (transport.rank + 1) % transport.size
    for number in range(50):
        transport.send(dst, Plane.DATA, (b"data", bytes([number])))
    transport.send(dst, Plane.DRAFT, (b"draft",))
    transport.send(dst, Plane.CONTROL, (b"control",))
    assert receive(transport, Plane.CONTROL).data == b"control"
    assert receive(transport, Plane.DRAFT).data == b"draft"
    for number in range(50):
        assert receive(transport, Plane.DATA).data == b"data" + bytes([number])


def check_several_megabytes_pass_in_all_directions_at_once(transport: Transport) -> None:
    def content(rank: int) -> bytes:
        return bytes([rank + 1, 7, 0, 255]) * (1 << 20)

    for dst in range(transport.size):
        transport.send(dst, Plane.DATA, (content(transport.rank), b"end"))
    sources = set()
    for _ in range(transport.size):
        frame = receive(transport, Plane.DATA)
        assert frame.data == content(frame.src) + b"end"
        sources.add(frame.src)
    assert sources == set(range(transport.size))


def check_a_burst_of_small_frames_survives(transport: Transport) -> None:
    dst = (transport.rank + 1) % transport.size
    for number in range(3000):
        transport.send(dst, Plane.DATA, (number.to_bytes(4, "little"),))
    for number in range(3000):
        assert receive(transport, Plane.DATA).data == number.to_bytes(4, "little")


def check_a_frame_belongs_to_its_receiver(transport: Transport) -> None:
    dst = (transport.rank + 1) % transport.size
    source = bytearray(b"first")
    transport.send(dst, Plane.DATA, (source,))
    source[:] = b"wrong"
    for number in range(20):
        transport.send(dst, Plane.DATA, (bytes([number]) * 5,))
    first = receive(transport, Plane.DATA)
    for number in range(20):
        assert receive(transport, Plane.DATA).data == bytes([number]) * 5
    assert first.data == b"first"


def check_an_empty_frame_passes(transport: Transport) -> None:
    dst = (transport.rank + 1) % transport.size
    transport.send(dst, Plane.DRAFT, ())
    assert receive(transport, Plane.DRAFT).data == b""


def check_a_frame_of_the_exact_limit_passes_and_a_longer_one_is_refused(transport: Transport) -> None:
    dst = (transport.rank + 1) % transport.size
    for plane in Plane:
        limit = LIMITS.of(plane)
        refusal = ""
        try:
            transport.send(dst, plane, (bytes(limit), b"x"))
        except TransportError as error:
            refusal = str(error)
        assert str(limit) in refusal and refusal.endswith(".")
        transport.send(dst, plane, (bytes(limit),))
    for plane in Plane:
        assert len(receive(transport, plane).data) == LIMITS.of(plane)


def check_nothing_is_there_when_nothing_was_sent(transport: Transport) -> None:
    assert [transport.poll(plane) for plane in Plane] == [None, None, None]
    transport.wait(0.0)
    transport.wait(0.01)
    assert [transport.poll(plane) for plane in Plane] == [None, None, None]


def check_a_message_ends_a_long_wait(transport: Transport) -> None:
    """Goes around the ring, so that each rank but the first sleeps until its turn comes."""
    dst = (transport.rank + 1) % transport.size
    if transport.rank == 0:
        transport.send(dst, Plane.DATA, (b"turn",))
    while (frame := transport.poll(Plane.DATA)) is None:
        transport.wait(10 * PATIENCE)
    if transport.rank != 0:
        transport.send(dst, Plane.DATA, (frame.data,))


def check_a_wake_ends_a_long_wait(transport: Transport) -> None:
    transport.wake()
    transport.wait(10 * PATIENCE)
    about_to_wait = threading.Event()

    def wake_when_waiting() -> None:
        about_to_wait.wait()
        transport.wake()

    waker = threading.Thread(target=wake_when_waiting)
    waker.start()
    about_to_wait.set()
    transport.wait(10 * PATIENCE)
    waker.join()


CHECKS: dict[str, Callable[[Transport], None]] = {
    name.removeprefix("check_"): check for name, check in sorted(globals().items()) if name.startswith("check_")
}


def run_checks(transport: Transport, meet: Callable[[], object]) -> dict[str, str]:
    """Run all checks on one rank and return `ok` or the failure of each; `meet` returns when all ranks have called it.

    Ends with the first failure, because what that leaves on the planes would mislead later checks.
    """
    results: dict[str, str] = {}
    for name, check in CHECKS.items():
        try:
            check(transport)
            drain_sends(transport)
            meet()
        except (AssertionError, TransportError, threading.BrokenBarrierError) as error:
            return {**results, name: f"{type(error).__name__}: {error}"}
        results[name] = "ok"
    return results
