"""How often a cheaper model chooses the token that the target has chosen."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from research.texts import Text, loaded


@dataclass(frozen=True, slots=True)
class Agreement:
    """Shares of positions at which the greedy choice equals the target's."""

    share: float
    """Over all positions of all answers."""
    error: float
    """Standard error of `share`, from the scatter between answers: positions of one answer are not independent."""
    lowest: float
    """The answer with the least."""
    median: float
    highest: float
    positions: int
    answers: int

    def sentence(self, draft: str, target: str) -> str:
        """Say it."""
        return (
            f"{draft} chooses {target}'s token at {self.share:.1%} of {self.positions} positions (standard error "
            f"{self.error:.1%}; by answer {self.lowest:.1%} to {self.highest:.1%}, median {self.median:.1%})."
        )

    def figures(self) -> dict[str, Any]:
        """Return the figures for JSON, shares with four digits."""
        return {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(self).items()}


def agreement(matches: Sequence[Sequence[bool]]) -> Agreement:
    """Sum up which choices match, one sequence an answer, each with at least one position."""
    shares = [sum(answer) / len(answer) for answer in matches]
    sizes = [len(answer) for answer in matches]
    total = sum(sizes)
    share = sum(map(sum, matches)) / total
    # The variance of a ratio of sums over answers that are independent of each other.
    scatter = sum((size * (one - share)) ** 2 for size, one in zip(sizes, shares, strict=True))
    error = math.sqrt(scatter * len(matches) / max(1, len(matches) - 1)) / total
    return Agreement(share, error, min(shares), statistics.median(shares), max(shares), total, len(matches))


def measure(draft: Path, texts: Sequence[Text], threads: int) -> Agreement:
    """Let `draft` read what the target wrote, and compare its choice at each position. Raises ModelError."""
    with loaded(draft, max(len(text.tokens) for text in texts), threads) as model:
        return agreement([(model.choices(text) == text.answer).tolist() for text in texts])
