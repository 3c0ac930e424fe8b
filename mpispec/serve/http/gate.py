"""Whether a server takes requests.

Not before there is an engine, not while it is about to end, and not on more connections than it has room for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mpispec.serve.errors import ApiError

_FULL = "mpispec.is_full"
_RETRY_SECONDS = 5
HEALTH_PATHS = frozenset({"/health", "/v1/health"})


class Drain:
    """The end of a server in order: who is in gets an answer, who comes is told to come back."""

    def __init__(self, on_empty: Callable[[], None]) -> None:
        """`on_empty` is called once, when the end has begun and nobody is in; on any thread."""
        self._lock = threading.Lock()
        self._on_empty = on_empty
        self._num_in = 0
        self._is_told = False
        self.has_begun = False

    def begin(self) -> None:
        """Begin the end; may be called twice, from any thread."""
        with self._lock:
            self.has_begun = True
        self._look()

    def enter(self) -> bool:
        """Tell whether a request may come in; if so it must `leave`."""
        with self._lock:
            self._num_in += not self.has_begun
            return not self.has_begun

    def leave(self) -> None:
        """Let a request out."""
        with self._lock:
            self._num_in -= 1
        self._look()

    def _look(self) -> None:
        with self._lock:
            is_over = self.has_begun and not self._num_in and not self._is_told
            self._is_told = self._is_told or is_over
        if is_over:
            self._on_empty()


class Gate:
    """ASGI middleware that answers with 503 where a server takes no requests. What only looks at it may always."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope.get(_FULL):
            sentence = "The server has all the connections it has room for; close some, or try again in a while."
            await _refuse(ApiError(503, sentence, code="too_many_connections"), scope, receive, send)
        elif scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
        elif not self._drain.enter():
            sentence = "The server is about to end and takes no new requests; try again in a while."
            await _refuse(ApiError(503, sentence, code="draining"), scope, receive, send)
        else:
            try:
                await self._app(scope, receive, send)
            finally:
                self._drain.leave()


class Changeable:
    """ASGI application in whose place another one may be put."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        """May be assigned by any thread."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        await self.app(scope, receive, send)


async def answer_without_engine(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request where there has been no engine yet."""
    if scope["path"] in HEALTH_PATHS:
        headers = {"Retry-After": str(_RETRY_SECONDS)}
        await JSONResponse({"status": "no engine yet"}, 503, headers)(scope, receive, send)
    else:
        sentence = "No engine has joined this server yet; try again in a while, or start one: mpispec serve --front."
        await _refuse(ApiError(503, sentence, code="no_engine"), scope, receive, send)


def when_full(app: ASGIApp) -> ASGIApp:
    """Return the application for a connection too many: its gate is closed."""

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, _FULL: True}, receive, send)

    return refuse


async def _refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    headers = {"Retry-After": str(_RETRY_SECONDS), "Connection": "close"}
    await JSONResponse(error.body_for(scope["path"]), error.status, headers)(scope, receive, send)
