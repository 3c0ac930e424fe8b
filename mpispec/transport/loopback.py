"""Ranks inside one process: `-np 1` without any MPI, and several ranks on threads for tests."""

from __future__ import annotations

import os
import sys
from collections import deque
from threading import Lock
from typing import NoReturn

from mpispec.core.ids import Plane
from mpispec.transport.base import Frame, Limits, TransportError
from mpispec.transport.waiting import Alarm

MAX_WAITING_FRAMES = 4096
"""Frames that may wait at one rank on one plane; credits keep real traffic far below (law 7)."""


class _Mailbox:
    """What waits for one rank; senders append and the owner pops, both atomic under the interpreter lock."""

    def __init__(self) -> None:
        self.frames: tuple[deque[Frame], ...] = tuple(deque() for _ in Plane)
        self.alarm = Alarm()


class LoopbackTransport:
    """A rank whose peers, if any, live in the same process. Without arguments: rank 0 of 1."""

    def __init__(self, limits: Limits | None = None, rank: int = 0, mailboxes: list[_Mailbox] | None = None) -> None:
        """Join the ranks that share `mailboxes`."""
        self._mailboxes = mailboxes or [_Mailbox()]
        self._own = self._mailboxes[rank]
        self._limits = limits
        self.rank = rank
        self.size = len(self._mailboxes)

    def open(self, limits: Limits) -> None:
        """Set the longest frame of each plane."""
        self._limits = limits

    def announce(self, dst: int) -> None:
        """Do nothing: a frame that is written wakes at once."""

    def send(self, dst: int, plane: Plane, parts: tuple[bytes | bytearray | memoryview, ...]) -> None:
        """Put a copy of the concatenated parts into the mailbox of `dst`.

        Raises TransportError if the frame is too long, or if far more frames wait there than credits allow.
        """
        if self._limits is None:
            raise TransportError("Nothing can be sent before the planes are open.")
        frame = b"".join(parts)
        self._limits.check(plane, len(frame))
        mailbox = self._mailboxes[dst]
        waiting = mailbox.frames[plane]
        if len(waiting) >= MAX_WAITING_FRAMES:
            raise TransportError(f"Rank {dst} has stopped taking frames; {len(waiting)} wait for it.")
        waiting.append(Frame(self.rank, memoryview(frame)))
        mailbox.alarm.wake()

    def poll(self, plane: Plane) -> Frame | None:
        """Return the next frame that has arrived on `plane`, or None."""
        waiting = self._own.frames[plane]
        return waiting.popleft() if waiting else None

    def reap(self) -> int:
        """Return 0: a send is finished when it returns."""
        return 0

    def wait(self, seconds: float, guard: Lock | None = None) -> None:
        """Sleep, without `guard`, until a frame has arrived, `wake` is called, or `seconds` have passed."""
        if not any(self._own.frames):
            self._own.alarm.sleep(seconds, guard=guard)

    def nudge(self) -> None:
        """Do nothing: what was sent has arrived."""

    def wake(self) -> None:
        """End a `wait`, from any thread."""
        self._own.alarm.wake()

    def close(self) -> None:
        """Free the alarm."""
        self._own.alarm.close()

    def barrier(self, deadline: float = 0.0) -> None:
        """Return at once: set-up is only ever synchronised across processes."""
        self._refuse_company()

    def allgather_bytes(self, data: bytes, limit: int, deadline: float = 0.0) -> list[bytes]:
        """Return the contribution of the only rank."""
        self._refuse_company()
        if len(data) > limit:
            raise TransportError(f"A contribution of {len(data)} bytes exceeds the agreed {limit} bytes.")
        return [data]

    def abort(self, code: int) -> NoReturn:
        """End the process at once, with threads and all."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def _refuse_company(self) -> None:
        if self.size > 1:
            raise TransportError("Ranks of one process share their set-up directly, not by collectives.")


class LoopbackFabric:
    """Several ranks in one process; hand each member to a thread of its own."""

    def __init__(self, size: int, limits: Limits) -> None:
        """Make `size` ranks that reach each other."""
        mailboxes = [_Mailbox() for _ in range(size)]
        self.members = [LoopbackTransport(limits, rank, mailboxes) for rank in range(size)]
