"""How a rank waits between two looks at MPI: its alarm, its doorbell and its back-off as one thing."""

from __future__ import annotations

import os
import select
import time
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a job of one rank has no doorbell, and needs none of what finds its address
    from mpispec.transport.doorbell import Doorbell


class Alarm:
    """The one way in which another thread ends a rank's sleep: an eventfd that any may raise and one sleeps on.

    `select` is used rather than `poll` or `epoll` because those count in milliseconds and the shortest useful sleep
    is 50 us.
    """

    def __init__(self) -> None:
        """Open the file descriptor."""
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = Lock()
        self._is_open = True

    def wake(self) -> None:
        """End the current or the next `sleep`; does nothing after `close`."""
        with self._lock:  # or a late caller could write to whatever file has got the number since
            if self._is_open:
                os.eventfd_write(self._fd, 1)

    def sleep(self, seconds: float, other_fd: int | None = None, guard: Lock | None = None) -> tuple[bool, bool]:
        """Sleep until woken, `other_fd` is readable, or `seconds` have passed; return which of the first two it was.

        `guard` is not held meanwhile.
        """
        fds = [self._fd] if other_fd is None else [self._fd, other_fd]
        if guard is not None:
            guard.release()
        try:
            readable, _, _ = select.select(fds, (), (), seconds)
        finally:
            if guard is not None:
                guard.acquire()
        is_woken = self._fd in readable
        if is_woken:
            os.eventfd_read(self._fd)
        return is_woken, other_fd in readable

    def close(self) -> None:
        """Close the file descriptor."""
        with self._lock:
            if self._is_open:
                self._is_open = False
                os.close(self._fd)


SHORTEST = 50e-6
"""Seconds of the shortest sleep; about what the kernel's timer slack makes of anything shorter."""
LONGEST_BUSY = 0.001
"""Seconds of the longest sleep while a message is on its way in or out, or without a doorbell."""
LONGEST_IDLE = 0.01
"""The same without a doorbell after `IDLE_AFTER` seconds of nothing."""
LONGEST_RUNG = 0.05
"""The same with a doorbell: the delay of a message whose ring was lost."""
IDLE_AFTER = 2.0
PATIENCE = 8
"""A sleep is the time since something happened divided by this; a wait gets longer by no more."""
DISTRUST_SECONDS = 1.0
"""How long to go on without the doorbell after a message has come unannounced."""


class Backoff:
    """Lengthens the sleeps while nothing happens, within bounds that depend on what may be expected.

    Measured (2 cores shared with other work, 4 ranks in a ring, frames of 2.4 KB, median one-way latency from before
    the send to after the poll, MPICH over loopback TCP with UCX): 82 to 86 us with a doorbell that rings before the
    message is sent, 106 to 108 us if it rings afterwards, 430 to 460 us without one. A rank idle for 2 s takes 0.3 to
    0.6 % of a core with it and 1 % without. When a ring has ended a sleep, the message shows at the first or second
    look under MPICH (99 of 100 rings; shared memory, UCX and OFI) and after up to 10 under Open MPI's TCP, so a few
    looks replace spinning.
    """

    def __init__(self, has_doorbell: bool) -> None:
        """Start as if something had just happened at time 0."""
        self._has_doorbell = has_doorbell
        self._last_activity = 0.0
        self._distrust_until = 0.0

    def activity(self, now: float) -> None:
        """Something has come, gone or been announced: start again with the shortest sleep."""
        self._last_activity = now

    def missed_ring(self, now: float) -> None:
        """A message has come that no ring announced: do not rely on rings for a while."""
        self._distrust_until = now + DISTRUST_SECONDS

    def relies_on_rings(self, now: float) -> bool:
        """Tell whether sleeps may be long because a ring will end them."""
        return self._has_doorbell and now >= self._distrust_until

    def next_pause(self, now: float, is_busy: bool) -> float:
        """Return the seconds to sleep now; `is_busy`: a message is on its way in or out."""
        idle = now - self._last_activity
        if is_busy:
            longest = LONGEST_BUSY
        elif self.relies_on_rings(now):
            return LONGEST_RUNG
        else:
            longest = LONGEST_BUSY if idle < IDLE_AFTER else LONGEST_IDLE
        return min(max(idle / PATIENCE, SHORTEST), longest)


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
        """A ring has not been read yet: its message is looked for first, because it is the one awaited."""
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
        # A flooded socket must not keep us awake: after a stranger's ring, one sleep without the bell.
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
