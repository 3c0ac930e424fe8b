"""Server-sent events: a response that is written as it comes, and clients that leave before it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
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


CHUNKS = "mpispec.chunks"
"""Name of the ASGI extension that sends a part of an answer which has begun: `Callable[[bytes], Awaitable[None]]`.

Each part would otherwise pass through all layers of the application, which look at the head of an answer alone.
"""


class EventStream(Response):
    """Sends `events`, each some whole events as text, and what `ping` returns after each `ping_s` seconds of silence.

    Calls `on_end` after the last, or when the client has gone.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[str, None],
        on_end: Callable[[], None],
        ping: Callable[[], str],
        ping_s: float | None,
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
            is_whole = await unless_gone(receive, self._write(scope, send))
        finally:
            self._on_end()
        if is_whole:  # last of all, so that whoever has read it finds the request ended
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, scope: Scope, send: Send) -> bool:
        async def send_part(body: bytes) -> None:
            await send({"type": "http.response.body", "body": body, "more_body": True})

        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        send_part = scope.get("extensions", {}).get(CHUNKS, send_part)
        async with aclosing(self._events) as events, _Silence(send_part, self._ping, self._ping_s) as silence:
            async for text in events:
                if text:
                    await silence.end_with(text)
        return True


class _Silence:
    """Sends texts, and a ping where `ping_s` seconds pass between two; one timer for all of them, since texts are many.

    A ping is only begun while no text is being sent.
    """

    def __init__(self, send: Callable[[bytes], Awaitable[None]], ping: Callable[[], str], ping_s: float | None) -> None:
        self._send = send
        self._ping = ping
        self._ping_s = ping_s
        self._since = time.monotonic()
        self._is_sending = False
        self._pinging: asyncio.Task[None] | None = None

    async def __aenter__(self) -> _Silence:
        if self._ping_s is not None:
            self._pinging = asyncio.ensure_future(self._watch(self._ping_s))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._pinging is not None:
            self._pinging.cancel()
            await asyncio.gather(self._pinging, return_exceptions=True)

    async def end_with(self, text: str) -> None:
        """Send a text."""
        self._is_sending = True
        await self._send(text.encode())
        self._is_sending = False
        self._since = time.monotonic()

    async def _watch(self, ping_s: float) -> None:
        while True:
            left = ping_s if self._is_sending else self._since + ping_s - time.monotonic()
            if left > 0:
                await asyncio.sleep(left)
            else:
                await self.end_with(self._ping())
