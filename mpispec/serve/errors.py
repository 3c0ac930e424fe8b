"""Requests that are answered with an error, and servers that cannot start. Pure."""

from __future__ import annotations

from dataclasses import dataclass

_ANTHROPIC = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""Anthropic's words for what went wrong."""
_RETRY_SECONDS = 5
"""Where a front process outlives its jobs, the next one may be there soon."""


class ServeError(Exception):
    """The server cannot start; the text is one sentence with the remedy."""


@dataclass(eq=False, slots=True)
class ApiError(Exception):
    """A request that is answered with an error."""

    status: int
    """HTTP status, 4xx or 5xx."""
    message: str
    """One sentence with the remedy."""
    param: str | None = None
    """The field at fault."""
    code: str | None = None
    """A word for programs."""
    retry_after: int | None = None
    """Seconds after which trying again makes sense."""

    def body(self) -> dict[str, object]:
        """Return the JSON body of the answer in OpenAI's form."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def anthropic_body(self) -> dict[str, object]:
        """Return the JSON body of the answer in Anthropic's form."""
        kind = _ANTHROPIC.get(self.status, "invalid_request_error" if self.status < 500 else "api_error")
        return {"type": "error", "error": {"type": kind, "message": self.message}}

    def body_for(self, path: str) -> dict[str, object]:
        """Return the JSON body in the form that clients of an endpoint know."""
        is_anthropic = path.removeprefix("/v1").startswith("/messages")
        return self.anthropic_body() if is_anthropic else self.body()

    def headers(self) -> dict[str, str]:
        """Return the headers that belong to the status."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


def engine_stopped() -> ApiError:
    """Return what open requests are answered with when the engine ends."""
    sentence = "The engine has stopped; start mpispec serve again."
    return ApiError(503, sentence, code="engine_stopped", retry_after=_RETRY_SECONDS)
