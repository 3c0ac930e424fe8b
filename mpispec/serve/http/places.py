"""How many answers may be under way or wait, in all and of one key."""

from __future__ import annotations

from collections import Counter

from mpispec.serve.errors import ApiError

_RETRY_SECONDS = 5


class Places:
    """The places of a server; lives on one event loop."""

    def __init__(self, most: int, most_of_key: int | None = None) -> None:
        """`most` in all, `most_of_key` for those who use the same key."""
        self._most = most
        self._most_of_key = most_of_key
        self._taken: Counter[int | None] = Counter()

    def take(self, key: int | None, count: int) -> None:
        """Take places for who uses a key, which is known by its number; raises ApiError where there are none."""
        taken, mine = self._taken.total(), self._taken[key]
        if key is not None and self._most_of_key is not None and mine + count > self._most_of_key:
            sentence = (
                f"{mine} answers are under way for this key, of {self._most_of_key} at most; try again in a while."
            )
            raise ApiError(429, sentence, code="rate_limit_exceeded", retry_after=_RETRY_SECONDS)
        if taken + count > self._most:
            sentence = f"{taken} answers are under way already, too many for this one; try again in a while."
            raise ApiError(503, sentence, code="queue_full", retry_after=_RETRY_SECONDS)
        self._taken[key] += count

    def give_back(self, key: int | None, count: int) -> None:
        """Give places back that were taken."""
        self._taken[key] -= count
        if not self._taken[key]:
            del self._taken[key]
