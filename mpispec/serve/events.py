"""Server-sent events: a response that is written as it comes, and clients that leave before it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

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


class EventStream(Response):
    """Sends `events`, each a whole event as text, and `ping` after each `ping_s` seconds of silence.

    Calls `on_end` after the last, or when the client has gone.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[str, None], on_end: Callable[[], None], ping: str, ping_s: float | None
    ) -> None:
        # Some proxies (nginx) collect an answer unless a header forbids it.
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._on_end = on_end
        self._ping = ping
        self._ping_s = ping_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_gone(receive, self._write(send))
        finally:
            self._on_end()

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with aclosing(self._events) as events, aclosing(_pinged(events, self._ping, self._ping_s)) as texts:
            async for text in texts:
                await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _pinged(events: AsyncGenerator[str, None], ping: str, ping_s: float | None) -> AsyncGenerator[str, None]:
    """Yield events, and `ping` wherever the next one takes longer than `ping_s`."""

    async def following() -> str | None:
        return await anext(events, None)

    while True:
        upcoming = asyncio.ensure_future(following())
        try:
            while not upcoming.done():
                await asyncio.wait({upcoming}, timeout=ping_s)
                if not upcoming.done():
                    yield ping
        finally:
            upcoming.cancel()
            await asyncio.gather(upcoming, return_exceptions=True)
        event = upcoming.result()
        if event is None:
            return
        yield event
