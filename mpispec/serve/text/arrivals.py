"""From other threads to an event loop: what arrives in one burst wakes the loop once."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary


class Arrivals:
    """Calls for one loop. A step of the engine brings progress for many requests; a wake-up each would cost more."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._is_woken = False

    def put(self, call: Callable[[Any], None], value: Any) -> None:
        """Have `call(value)` called on the loop, in order; from any thread. Lost where the loop is closed."""
        self._calls.append((call, value))
        if asyncio._get_running_loop() is self._loop:
            self._make()
        elif not self._is_woken:
            self._is_woken = True
            with contextlib.suppress(RuntimeError):  # closed: nobody listens any more
                self._loop.call_soon_threadsafe(self._make)

    def _make(self) -> None:
        self._is_woken = False  # before the look: what comes after it wakes the loop again
        while self._calls:
            call, value = self._calls.popleft()
            call(value)


_of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, Arrivals] = WeakKeyDictionary()


def arrivals() -> Arrivals:
    """Return those of the running loop."""
    loop = asyncio.get_running_loop()
    if loop not in _of_loops:
        _of_loops[loop] = Arrivals(loop)
    return _of_loops[loop]
