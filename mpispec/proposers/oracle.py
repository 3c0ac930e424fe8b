"""A scripted proposer for tests and benchmarks: it knows the answer and is wrong as often as it is told to be.

Whatever is measured with it is synthetic, and every output that used it says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


class Oracle:
    """Guesses the recorded token with probability `hit_rate`, independently at each position, else a wrong one."""

    def __init__(self, recorded: Sequence[int], hit_rate: float, vocabulary: int, seed: int = 0) -> None:
        self._recorded = recorded
        """Prompt and continuation, as a run without speculation wrote them."""
        self._hit_rate = hit_rate
        self._vocabulary = vocabulary
        self._seed = seed
        self._tokens: Sequence[int] = ()

    def begin(self, tokens: Sequence[int]) -> None:
        """Start a request."""
        self._tokens = tokens

    def observe(self) -> None:
        """The script does not depend on what was accepted."""

    def guess(self, path: Sequence[int]) -> tuple[int, float] | None:
        """Return the scripted guess for the position after the path."""
        pos = len(self._tokens) + len(path)
        if pos >= len(self._recorded):
            return None
        digest = hashlib.blake2b(f"{self._seed}:{pos}".encode(), digest_size=8).digest()
        is_hit = int.from_bytes(digest, "little") / 2**64 < self._hit_rate
        right = self._recorded[pos]
        return (right if is_hit else (right + 1) % self._vocabulary), max(self._hit_rate, 0.01)
