"""Who may talk to the server: no web page of a stranger, and beyond this machine only with a key."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mpispec.serve.errors import ApiError
from mpispec.serve.http.address import Access, is_loopback
from mpispec.serve.http.gate import HEALTH_PATHS
from mpispec.serve.http.page_files import is_page

_BAD_HOST = (
    "The Host header must name this machine, such as localhost; for proxies and other names start mpispec serve with "
    "--allow-host NAME, or with --api-key alone, which lifts this check."
)
_BAD_ORIGIN = "Web pages of other sites may not use this server; name those that may with mpispec serve --cors-origin."
_KEY = "mpispec.key"


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
    Where names are given that the server may be called by, they count in either case.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._keys = [key.encode() for key in sorted(access.keys)]
        self._origins = access.origins
        self._hosts = access.hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refusal := self._refuse(Headers(scope=scope), scope)) is not None:
            headers = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else None
            await JSONResponse(refusal.body_for(scope["path"]), refusal.status, headers)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refuse(self, headers: Headers, scope: Scope) -> ApiError | None:
        if (not self._keys or self._hosts) and not self._is_called(headers.get("host", ""), scope):
            return ApiError(403, _BAD_HOST, code="bad_host")
        if not self._keys:
            return _refuse_stranger(headers, self._origins)
        scope[_KEY] = _find_key(headers, self._keys)
        # Load balancers ask after the health without a key, and the answer is one word.
        if scope["path"] in HEALTH_PATHS or is_page(scope["path"]) or scope[_KEY] is not None:
            return None
        sentence = "Send the server's key as `Authorization: Bearer KEY` or `x-api-key: KEY`."
        return ApiError(401, sentence, code="invalid_api_key")

    def _is_called(self, authority: str, scope: Scope) -> bool:
        """Tell whether a Host header has a name of this server: a name of its own, or the address it is reached at.

        A web page cannot make an address resolve to another one, so that address is as good as a name.
        """
        host = read_hostname(authority).rstrip(".")
        server = scope.get("server")
        is_ours = is_loopback(host) or (server is not None and host == server[0])
        return is_ours or any(fnmatchcase(host, name) for name in self._hosts)


def key_of(scope: Scope) -> int | None:
    """Return the number of the key that a request brought, if the server has keys."""
    number: int | None = scope.get(_KEY)
    return number


def _refuse_stranger(headers: Headers, friends: tuple[str, ...]) -> ApiError | None:
    origin = headers.get("origin")
    if origin is None or origin in friends:
        return None
    authority = origin.partition("://")[2]
    if is_loopback(read_hostname(authority)) or authority == headers.get("host"):  # a page of our own
        return None
    return ApiError(403, _BAD_ORIGIN, code="bad_origin")


def _find_key(headers: Headers, keys: Sequence[bytes]) -> int | None:
    """Return the number of the key that a request brings. All are compared, whichever it is."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    found = [given] if scheme.lower() == "bearer" else []
    found += headers.getlist("x-api-key")  # Anthropic's clients
    # Headers are latin-1 on the wire; a key beyond ASCII arrives as its UTF-8 bytes.
    words = [each.strip().encode("latin-1") for each in found]
    equal = [any(hmac.compare_digest(word, key) for word in words) for key in keys]
    return equal.index(True) if True in equal else None
