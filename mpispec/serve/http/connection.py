"""The connections of the server: so many at once, and none of them in silence."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import h11
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from mpispec.serve.api.answers import encode
from mpispec.serve.errors import ApiError
from mpispec.serve.http.events import PARTS
from mpispec.serve.http.gate import when_full

MOST_CONNECTIONS = 256
KEEP_SECONDS = 120
"""How long a connection without a request is kept: clients and proxies keep theirs for up to 90, and a request that
meets a closing connection is lost."""
HEAD_SECONDS = 20.0
"""A client that takes longer for the head of a request, or goes on with its body after the answer, is cut off."""
STALL_SECONDS = 300.0
"""A client that takes nothing of its answer for so long is cut off; the answer would keep its place for ever."""


class DeadlineProtocol(H11Protocol):
    """One connection; silent ones would take all places there are.

    On more connections than `MOST_CONNECTIONS` requests are refused, and beyond twice as many there are none.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._has_chunks = True
        """Whether the client knows them; those of HTTP/1.0 do not."""

    @property
    def app(self) -> ASGIApp:
        """What answers the next request."""
        return self._answer if len(self.connections) < MOST_CONNECTIONS else when_full(self._app)

    @app.setter
    def app(self, app: ASGIApp) -> None:
        self._app = app

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request; where there is no room, a connection that is kept idle makes some."""
        if len(self.connections) + 2 > MOST_CONNECTIONS:
            _close_idle(self.connections)
        super().connection_made(transport)
        if len(self.connections) > 2 * MOST_CONNECTIONS:
            transport.abort()
        else:
            self._await_head()

    def data_received(self, data: bytes) -> None:
        """Take a part of a request."""
        super().data_received(data)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait for a client that does not take what is written."""
        super().pause_writing()
        self._await_reader(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Go on: the client has taken most of it."""
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def on_response_complete(self) -> None:
        """End a request; a client that still sends its body has some time to see the answer."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self.loop.call_later(HEAD_SECONDS, self._end_body)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP. Once an answer has begun that cannot be said, so the connection ends."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        sentence = "This is no HTTP/1.1, or the head of the request is longer than 64 KiB; send it as HTTP clients do."
        body = encode(ApiError(400, sentence, code="bad_http").body()).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Connection", "close")]
        answer = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
        for event in (answer, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, with a short way for the parts of its answer."""
        self._has_chunks = self.conn.their_http_version == b"1.1"
        scope["extensions"] = {PARTS: self}
        await self._app(scope, receive, send)

    def write(self, part: bytes) -> bool:
        """Write a part of an answer as h11 would, for which nothing changes by it; see `Outlet`."""
        if not self.cycle.disconnected:
            self.transport.write(b"%x\r\n%b\r\n" % (len(part), part) if self._has_chunks else part)
        return not self.flow.write_paused

    async def drain(self) -> None:
        """See `Outlet`."""
        await self.flow.drain()

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: Java's clients offer HTTP/2 with each request, and the lines would end up in the chat."""

    def _await_head(self) -> None:
        """Close the connection in a while unless a request has begun; uvicorn looks after the time between them."""
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _await_reader(self, waiting: int) -> None:
        self._stall_timer = self.loop.call_later(STALL_SECONDS, self._look_at_reader, waiting)

    def _look_at_reader(self, before: int) -> None:
        """Cut the client off unless it has taken something of the bytes that waited for it."""
        waiting = self.transport.get_write_buffer_size()
        if waiting >= before:
            self.transport.abort()
        else:
            self._await_reader(waiting)

    def _end_body(self) -> None:
        if self.conn.their_state is h11.SEND_BODY and not self._is_answering:
            self.transport.close()

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def _close_idle(connections: Iterable[Any]) -> None:
    """Close the connection that has been without a request for the longest, if there is one."""
    since = [(each.timeout_keep_alive_task.when(), each) for each in connections if each.timeout_keep_alive_task]
    if since:
        min(since, key=lambda pair: pair[0])[1].transport.close()
