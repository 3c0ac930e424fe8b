"""A scripted predictor for tests and benchmarks: it knows the answer and is right at a given rate.

Whatever is measured with it is synthetic, and every output that used it says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


class Oracle:
    """Predicts the recorded token with probability `acceptance_rate`, independently by position, else a wrong one."""

    def __init__(self, recorded: Sequence[int], acceptance_rate: float, vocabulary: int, seed: int = 0) -> None:
        self._recorded = recorded
        """Prompt and continuation, as a run without speculation wrote them."""
        self._acceptance_rate = acceptance_rate
        self._vocabulary = vocabulary
        self._seed = seed
        self._tokens: Sequence[int] = ()

    def begin(self, tokens: Sequence[int]) -> None:
        """Start a request."""
        self._tokens = tokens

    def observe(self) -> None:
        """The script does not depend on what was accepted."""

    def predict(self, path: Sequence[int], width: int) -> list[tuple[int, float]]:
        """Return the scripted token for the position after the path, and no other."""
        del width
        pos = len(self._tokens) + len(path)
        if pos >= len(self._recorded):
            return []
        digest = hashlib.blake2b(f"{self._seed}:{pos}".encode(), digest_size=8).digest()
        is_right = int.from_bytes(digest, "little") / 2**64 < self._acceptance_rate
        right = self._recorded[pos]
        return [(right if is_right else (right + 1) % self._vocabulary, max(self._acceptance_rate, 0.01))]
