"""When requests are to end with what they have."""

from __future__ import annotations

from mpispec.core.ids import RequestId


class Deadlines:
    """Deadlines of the requests that have one, on the clock of their head."""

    def __init__(self) -> None:
        self._due: dict[RequestId, float] = {}
        self._first = float("inf")
        """The earliest: most looks at the clock need no more."""

    def __len__(self) -> int:
        return len(self._due)

    def add(self, request: RequestId, deadline: float | None) -> None:
        """Remember a request's deadline, if it has one."""
        if deadline is not None:
            self._due[request] = deadline
            self._first = min(self._first, deadline)

    def discard(self, request: RequestId) -> None:
        """Forget a request that has ended."""
        if self._due.pop(request, None) is not None:
            self._first = min(self._due.values(), default=float("inf"))

    def passed(self, now: float) -> list[RequestId]:
        """Return the requests whose deadline has passed, the earliest first; they stay until they are discarded."""
        if now < self._first:
            return []
        return sorted((request for request, due in self._due.items() if due <= now), key=self._due.__getitem__)
