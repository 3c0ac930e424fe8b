"""From other threads to an event loop: what arrives in one burst wakes the loop once."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakKeyDictionary

Result = TypeVar("Result")


class Arrivals:
    """Calls for one loop. A step of the engine brings progress for many requests; a wake-up each would cost more."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._rung: deque[Callable[[], None]] = deque()
        self._is_woken = False

    def ring(self, call: Callable[[], None]) -> None:
        """Have `call` called on the loop soon, once for all rings until then; from any thread. Lost where it is closed.

        Also on the loop itself it is called later, when the whole burst has come.
        """
        self._rung.append(call)
        if not self._is_woken:
            self._is_woken = True
            is_on_loop = asyncio._get_running_loop() is self._loop
            wake = self._loop.call_soon if is_on_loop else self._loop.call_soon_threadsafe
            with contextlib.suppress(RuntimeError):  # closed: nobody listens any more
                wake(self._make)

    def during(self, read: Callable[[], Result]) -> Result:
        """Return what `read` does, and make the calls that are rung meanwhile at once after it; on the loop only.

        They need no further turn of the loop, which costs as much as some tokens.
        """
        self._is_woken = True
        try:
            return read()
        finally:
            self._make()

    def _make(self) -> None:
        self._is_woken = False  # before the look: what comes after it wakes the loop again
        for call in dict.fromkeys(self._rung.popleft() for _ in range(len(self._rung))):
            call()


_of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, Arrivals] = WeakKeyDictionary()


def arrivals() -> Arrivals:
    """Return those of the running loop."""
    loop = asyncio.get_running_loop()
    if loop not in _of_loops:
        _of_loops[loop] = Arrivals(loop)
    return _of_loops[loop]
