"""GET /: a page to chat on and to watch the pipeline with; files of this package, which ask no other server."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

PREFIX = "/page/"
"""Where the page's files are; only the page itself is at /."""
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""What a model writes must not become a program, nor a reason to ask another server."""
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Asked for each time and answered with 304 while it is the same: a new version is never mixed with an old one.
    "Cache-Control": "no-cache",
}


def is_page(path: str) -> bool:
    """Tell whether a path is part of the page, which holds no secret: it asks for the key itself."""
    return path == "/" or path.startswith(PREFIX)


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    kind: str
    tag: str


def _read() -> dict[str, _File]:
    found = {}
    for file in (resources.files("mpispec.serve.http") / "page").iterdir():
        kind = _TYPES.get(file.name[file.name.rfind(".") :])
        if kind is not None:
            content = file.read_bytes()
            found[file.name] = _File(content, kind, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
    return found


class Page:
    """The page's endpoints; its files are read once."""

    def __init__(self) -> None:
        self._files = _read()

    async def index(self, http: Request) -> Response:
        """GET /."""
        return self._answer(http, "index.html")

    async def file(self, http: Request) -> Response:
        """GET /page/{name}."""
        return self._answer(http, http.path_params["name"])

    def _answer(self, http: Request, name: str) -> Response:
        file = self._files.get(name)
        if file is None:
            raise HTTPException(404)
        headers = {**_HEADERS, "ETag": file.tag}
        known = [tag.strip().removeprefix("W/") for tag in http.headers.get("if-none-match", "").split(",")]
        if file.tag in known or "*" in known:
            return Response(status_code=304, headers=headers)
        return Response(file.content, headers=headers, media_type=file.kind)
