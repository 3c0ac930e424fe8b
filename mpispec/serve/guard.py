"""Who may talk to the server: an API key beyond this machine, and no web page of a stranger on this machine."""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mpispec.serve.address import is_loopback
from mpispec.serve.errors import ApiError

_OPEN_PATHS = frozenset({"/health"})
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

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self._app = app
        self._key = None if key is None else key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refusal := self._refuse(Headers(scope=scope), scope["path"])) is not None:
            headers = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else None
            await JSONResponse(refusal.body(), refusal.status, headers)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refuse(self, headers: Headers, path: str) -> ApiError | None:
        if self._key is None:
            return _refuse_stranger(headers)
        if path in _OPEN_PATHS or _knows_key(headers, self._key):
            return None
        return ApiError(401, "Send the server's key as `Authorization: Bearer KEY`.", code="invalid_api_key")


def _refuse_stranger(headers: Headers) -> ApiError | None:
    if not is_loopback(read_hostname(headers.get("host", ""))):
        return ApiError(403, "The Host header must name this machine, such as localhost.", code="bad_host")
    origin = headers.get("origin")
    if origin is not None and not is_loopback(read_hostname(origin.partition("://")[2])):
        return ApiError(403, "Web pages of other sites may not use this server.", code="bad_origin")
    return None


def _knows_key(headers: Headers, key: bytes) -> bool:
    scheme, _, given = headers.get("authorization", "").partition(" ")
    # Headers are latin-1 on the wire; a key beyond ASCII arrives as its UTF-8 bytes.
    same = hmac.compare_digest(given.strip().encode("latin-1"), key)
    return same and scheme.lower() == "bearer"
