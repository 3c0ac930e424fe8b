"""Who may talk to the server: no web page of a stranger, beyond this machine only with a key, and nobody in silence."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

import h11
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from mpispec.serve.address import Access, is_loopback
from mpispec.serve.errors import ApiError

_BAD_HOST = (
    "The Host header must name this machine, such as localhost; for proxies and other names start mpispec serve with "
    "--api-key, which lifts this check."
)
_BAD_ORIGIN = "Web pages of other sites may not use this server; name those that may with mpispec serve --cors-origin."
_OPEN_PATHS = frozenset({"/health", "/v1/health"})
"""Answered without a key: load balancers ask, and the answer is one word."""


def read_hostname(authority: str) -> str:
    """Return the host of `host`, `host:port` or `[v6]:port`, empty if there is none."""
    try:
        return urlsplit(f"//{authority}").hostname or ""
    except ValueError:
        return ""


class Guard:
    """ASGI middleware; refuses with JSON errors before a body is read.

    Without a key only loopback may be served. A web page can reach loopback too, by a name that it makes resolve
    to 127.0.0.1 (DNS rebinding) or by a plain cross-site POST, so without a key `Host` and `Origin` have to name this
    machine. With a key they need not: a strange page does not know it, and a proxy in front has a name of its own.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._keys = [key.encode() for key in sorted(access.keys)]
        self._origins = access.origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refusal := self._refuse(Headers(scope=scope), scope["path"])) is not None:
            headers = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else None
            await JSONResponse(refusal.body_for(scope["path"]), refusal.status, headers)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refuse(self, headers: Headers, path: str) -> ApiError | None:
        if not self._keys:
            return _refuse_stranger(headers, self._origins)
        if path in _OPEN_PATHS or _knows_key(headers, self._keys):
            return None
        sentence = "Send the server's key as `Authorization: Bearer KEY` or `x-api-key: KEY`."
        return ApiError(401, sentence, code="invalid_api_key")


def _refuse_stranger(headers: Headers, friends: tuple[str, ...]) -> ApiError | None:
    if not is_loopback(read_hostname(headers.get("host", ""))):
        return ApiError(403, _BAD_HOST, code="bad_host")
    origin = headers.get("origin")
    if origin is not None and origin not in friends and not is_loopback(read_hostname(origin.partition("://")[2])):
        return ApiError(403, _BAD_ORIGIN, code="bad_origin")
    return None


def _knows_key(headers: Headers, keys: Sequence[bytes]) -> bool:
    scheme, _, given = headers.get("authorization", "").partition(" ")
    found = [given] if scheme.lower() == "bearer" else []
    found += headers.getlist("x-api-key")  # Anthropic's clients
    # Headers are latin-1 on the wire; a key beyond ASCII arrives as its UTF-8 bytes.
    return any(hmac.compare_digest(each.strip().encode("latin-1"), key) for each in found for key in keys)


MOST_CONNECTIONS = 256
KEEP_SECONDS = 120
"""How long a connection without a request is kept: clients and proxies keep theirs for up to 90, and a request that
meets a closing connection is lost."""
HEAD_SECONDS = 20.0
"""A client that takes longer for the head of a request is cut off."""


class DeadlineProtocol(H11Protocol):
    """One connection; silent ones would take all places there are."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request; where there is no room, a connection that is kept idle makes some."""
        if len(self.connections) + 2 > MOST_CONNECTIONS:
            _close_idle(self.connections)
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Take a part of a request."""
        super().data_received(data)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: Java's clients offer HTTP/2 with each request, and the lines would end up in the chat."""

    def _await_head(self) -> None:
        """Close the connection in a while unless a request has begun; uvicorn looks after the time between them."""
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def _close_idle(connections: Iterable[Any]) -> None:
    """Close the connection that has been without a request for the longest, if there is one."""
    since = [(each.timeout_keep_alive_task.when(), each) for each in connections if each.timeout_keep_alive_task]
    if since:
        min(since, key=lambda pair: pair[0])[1].transport.close()
