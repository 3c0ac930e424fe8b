"""The outermost of the server: gives each request an id, counts it, and writes its line into the log."""

from __future__ import annotations

import re
import time
from collections.abc import Collection
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mpispec.serve.http import log
from mpispec.serve.http.facts import Facts, attach, request_id
from mpispec.serve.http.metrics import Metrics

ID_HEADER = "X-Request-Id"
_METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE"})
_LONGEST_PATH = 200
_FAILED = 500
_SLASHES = re.compile("//+")
_LEFT = 499
"""Code of requests whose client left before any answer, as nginx has it."""


class Watch:
    """ASGI middleware around an application that knows `paths`, given without `/v1`."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Collection[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; what the application raises has been answered, and is logged here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Of a base URL that ends with a slash, in clients that add theirs.
        scope["path"] = _SLASHES.sub("/", scope["path"])
        facts = Facts(request_id(Headers(scope=scope).get(ID_HEADER, "")))
        attach(scope, facts)
        status = _LEFT

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[ID_HEADER] = facts.id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            status = _FAILED
            log.tell_failure(facts.id, error)
        finally:
            self._metrics.count(*self._bounded(scope), status, facts)
            log.tell(_line(scope, status, facts))

    def _bounded(self, scope: Scope) -> tuple[str, str]:
        """Return method and path of a request; all that nobody knows are one."""
        method = scope["method"] if scope["method"] in _METHODS else "other"
        path = scope["path"].removeprefix("/v1")
        if path in self._paths:
            return method, path
        return method, "/models/{name}" if path.startswith("/models/") else "other"


def _line(scope: Scope, status: int, facts: Facts) -> dict[str, Any]:
    """Return what the log says of a request. The path is as it came: percent signs hide what could steer a terminal."""
    answers = facts.answers
    client = scope.get("client")
    path = bytes(scope.get("raw_path") or b"").decode("latin-1")
    verified = sum(answer.figure("speculation", "verified") or 0 for answer in answers)
    accepted = sum(answer.figure("speculation", "accepted") or 0 for answer in answers)
    return {
        "id": facts.id,
        "client": client[0] if client else None,
        "method": scope["method"],
        "path": path[:_LONGEST_PATH],
        "status": status,
        "duration_s": round(time.monotonic() - facts.came, 4),
        "prompt_tokens": sum(answer.prompt_tokens for answer in answers) if answers else None,
        "cached_tokens": sum(answer.cached_tokens for answer in answers) if answers else None,
        "answer_tokens": sum(len(answer.times) for answer in answers) if answers else None,
        "ttft_s": None if facts.ttft_s is None else round(facts.ttft_s, 4),
        "finish_reason": ",".join(dict.fromkeys(answer.finish_reason for answer in answers)) or None,
        "acceptance_rate": round(accepted / verified, 4) if verified else None,
    }
