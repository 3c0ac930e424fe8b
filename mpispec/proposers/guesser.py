"""What guesses one token at a time in the head; `Chain` and `Beside` make trees of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Guesser(Protocol):
    """Knows the accepted tokens and answers at once."""

    def begin(self, tokens: Sequence[int]) -> None:
        """Start a request; `tokens` is the head's own list of accepted tokens, which will grow."""

    def observe(self) -> None:
        """Hear that the list of accepted tokens has grown."""

    def guess(self, path: Sequence[int]) -> tuple[int, float] | None:
        """Return the likeliest token after the accepted tokens and `path`, with its probability."""
