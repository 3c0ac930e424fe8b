"""Server-sent events: a response that is written as it comes, and clients that leave before it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

Result = TypeVar("Result")


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result | None:
    """Return the result of `work`, or None if the client leaves before; `work` is cancelled then.

    `receive` must have given the whole body already.
    """
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


PARTS = "mpispec.parts"
"""Name of the ASGI extension that writes parts of an answer which has begun, an `Outlet`.

Each part would otherwise pass through all layers of the application, which look at the head of an answer alone.
"""


class Outlet(Protocol):
    """A connection, as parts of an answer see it."""

    def write(self, part: bytes) -> bool:
        """Write a part, which must not be empty; return whether the client takes more without a `drain` before it."""

    async def drain(self) -> None:
        """Wait until the client has taken most of what was written, or has gone."""


class EventStream(Response):
    """Has `write` send events, and sends what `ping` returns after each `ping_s` seconds of silence.

    Calls `on_end` after the last, or when the client has gone.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        write: Callable[[Sink], Awaitable[None]],
        on_end: Callable[[], None],
        ping: Callable[[], str],
        ping_s: float | None,
    ) -> None:
        # Some proxies (nginx) collect an answer unless a header forbids it.
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._write = write
        self._on_end = on_end
        self._ping = ping
        self._ping_s = ping_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Needs an `Outlet` in the scope."""
        try:
            is_whole = await unless_gone(receive, self._send(scope, send))
        finally:
            self._on_end()
        if is_whole:  # last of all, so that whoever has read it finds the request ended
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, scope: Scope, send: Send) -> bool:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with Sink(scope["extensions"][PARTS], self._ping, self._ping_s) as sink:
            await self._write(sink)
        return True


class Sink:
    """Takes texts, and a ping where `ping_s` seconds pass between two; one timer for all of them, since texts are many.

    A ping is only written while the client takes what is written.
    """

    def __init__(self, outlet: Outlet, ping: Callable[[], str], ping_s: float | None) -> None:
        self._outlet = outlet
        self._ping = ping
        self._ping_s = ping_s
        self._since = time.monotonic()
        self._is_draining = False
        self._pinging: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Sink:
        if self._ping_s is not None:
            self._pinging = asyncio.ensure_future(self._watch(self._ping_s))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._pinging is not None:
            self._pinging.cancel()
            await asyncio.gather(self._pinging, return_exceptions=True)

    def write(self, text: str) -> bool:
        """Send some whole events, or none; return whether more can be taken without a `drain` before it."""
        if not text:
            return True
        self._since = time.monotonic()
        return self._outlet.write(text.encode())

    async def drain(self) -> None:
        """Wait until the client takes more."""
        self._is_draining = True
        await self._outlet.drain()
        self._is_draining = False
        self._since = time.monotonic()

    async def _watch(self, ping_s: float) -> None:
        while True:
            left = ping_s if self._is_draining else self._since + ping_s - time.monotonic()
            if left > 0:
                await asyncio.sleep(left)
            elif not self.write(self._ping()):
                await self.drain()
