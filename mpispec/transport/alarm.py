"""The one way in which another thread ends a rank's sleep."""

from __future__ import annotations

import os
import select
import threading


class Alarm:
    """An eventfd that any thread may raise and one thread sleeps on.

    `select` is used rather than `poll` or `epoll` because those count in milliseconds and the shortest useful sleep
    is 50 us.
    """

    def __init__(self) -> None:
        """Open the file descriptor."""
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        self._is_open = True

    def wake(self) -> None:
        """End the current or the next `sleep`; does nothing after `close`."""
        with self._lock:  # or a late caller could write to whatever file has got the number since
            if self._is_open:
                os.eventfd_write(self._fd, 1)

    def sleep(
        self, seconds: float, other_fd: int | None = None, guard: threading.Lock | None = None
    ) -> tuple[bool, bool]:
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
