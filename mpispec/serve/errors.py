"""Requests that are answered with an error. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class ApiError(Exception):
    """A request that is answered with an error in OpenAI's form."""

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
        """Return the JSON body of the answer."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Return the headers that belong to the status."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


def engine_stopped() -> ApiError:
    """Return what open requests are answered with when the engine ends."""
    return ApiError(503, "The engine has stopped; start mpispec serve again.", code="engine_stopped")
