"""What predicts in the head, one token at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Predictor(Protocol):
    """Knows the accepted tokens and answers at once."""

    def begin(self, tokens: Sequence[int]) -> None:
        """Start a request; `tokens` is the head's own list of accepted tokens, which will grow."""

    def observe(self) -> None:
        """Look at the list of accepted tokens, which may have grown; called with each run of the prompt as well.

        What takes longer than about a millisecond is done a piece a call.
        """

    def predict(self, path: Sequence[int], width: int) -> Sequence[tuple[int, float]]:
        """Return up to `width` tokens that may follow the accepted tokens and `path`, likeliest first.

        Each comes with its probability; nothing where there is nothing to go by.
        """
