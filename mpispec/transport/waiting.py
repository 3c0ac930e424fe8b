"""How a rank waits between two looks at MPI: its alarm, its doorbell and its back-off as one thing."""

from __future__ import annotations

import time
from threading import Lock

from mpispec.transport.alarm import Alarm
from mpispec.transport.backoff import LONGEST_BUSY, Backoff
from mpispec.transport.doorbell import Doorbell

ANNOUNCED_SECONDS = 60.0
"""How long an announced message is looked for often: longer than any frame takes, so only a forged ring outlasts it."""


class Waiter:
    """Counts what goes and comes, rings for what goes, and sleeps as long as what may come allows."""

    def __init__(self, rank: int, size: int, doorbell: Doorbell | None) -> None:
        """Take over the doorbell, if there is one."""
        self._rank = rank
        self._doorbell = doorbell
        self._alarm = Alarm()
        self._backoff = Backoff(doorbell is not None)
        self.sent = [0] * size
        """Messages handed to MPI so far, by destination."""
        self.received = [0] * size
        """Messages taken from MPI so far, by source."""
        self.is_busy = False
        self._is_active = True
        self._is_rung = False
        """A ring has not been read yet: its message is looked for first, because that is what somebody waits for."""
        self._is_deaf = False
        self._expecting_until = 0.0
        self._was_silent = False

    def note_sending(self, dst: int) -> None:
        """A message is about to be handed to MPI: ring for it, because waking takes longer than sending."""
        self._is_active = True
        self.sent[dst] += 1
        if self._doorbell is not None and dst != self._rank:
            self._doorbell.ring(dst, self.sent[dst])

    def note_received(self, src: int) -> None:
        """A message has come."""
        self._is_active = True
        self.received[src] += 1

    def sleep(self, now: float, deadline: float, is_moving: bool, guard: Lock | None = None) -> bool:
        """Sleep once without `guard`, at most until `deadline`, or not at all where a ring announces a message.

        Returns whether `wake` ended it.

        A long message moves only while both ends look at MPI, and the sender may be done when the receiver has
        read a fraction; so sleeps are short from the moment a ring announces a message until it is complete, and
        while MPI `is_moving` one. `is_busy` tells afterwards whether that is so.
        """
        if self._is_active:
            self._is_active = False
            self._backoff.activity(now)
        if self._doorbell is not None and self._is_rung and self._answer(self._doorbell, now):
            return False
        self.is_busy = is_moving or self._is_expecting(now)
        pause = min(self._backoff.next_pause(now, self.is_busy), deadline - now)
        if self._doorbell is None or self._is_deaf:
            is_woken, _ = self._alarm.sleep(min(pause, LONGEST_BUSY) if self._is_deaf else pause, guard=guard)
            self._is_deaf = False
        else:
            is_woken, self._is_rung = self._alarm.sleep(pause, self._doorbell.fd, guard)
        self._was_silent = not (self.is_busy or self._is_rung or is_woken) and self._backoff.relies_on_rings(now)
        return is_woken

    def found(self) -> None:
        """The look after the last `sleep` found a message; if nobody had rung for it, rings are being lost."""
        if self._was_silent:
            self._was_silent = False
            self._backoff.missed_ring(time.monotonic())

    def nudge(self, is_moving: bool) -> None:
        """End a sleep that has become too long because another thread has sent something meanwhile."""
        if is_moving or not self._backoff.relies_on_rings(time.monotonic()):
            self._alarm.wake()

    def wake(self) -> None:
        """End the current or the next `sleep`, from any thread."""
        self._alarm.wake()

    def close(self) -> None:
        """Free the alarm and the doorbell."""
        self._alarm.close()
        if self._doorbell is not None:
            self._doorbell.close()

    def _answer(self, doorbell: Doorbell, now: float) -> bool:
        """Read what has rung; return whether it announces something that has not come."""
        self._is_rung = False
        rings = doorbell.drain(self.received)
        # Whoever floods the socket must not keep us awake: after a stranger's ring, one sleep without the bell.
        self._is_deaf = rings.strange
        if rings.news:
            self._backoff.activity(now)
            self.is_busy = True
            self._expecting_until = now + ANNOUNCED_SECONDS
        return rings.news

    def _is_expecting(self, now: float) -> bool:
        """Tell whether a ring has announced a message, not long ago, that has not come yet."""
        if self._doorbell is None or not self._expecting_until:
            return False
        if now < self._expecting_until and self._doorbell.is_expecting(self.received):
            return True
        self._doorbell.forget(self.received)
        self._expecting_until = 0.0
        return False
