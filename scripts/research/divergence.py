"""How far texts written under trees part from the plain text, and how close the decision was where they first do.

A tree's pruned siblings leave holes in the order of cells, which later tokens fill, so attention sums in another order
(ADR 0008). Which of two tokens wins can then differ where their logits are close; the distance between the reference's
two best logits at the first difference says how close it was.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mpispec.compute.base import Floats
from research.texts import Text, loaded


@dataclass(frozen=True, slots=True)
class Reference:
    """What the whole model writes alone, one token at a time."""

    text: Text
    gaps: tuple[float, ...]
    """Distance between the two best logits at each token of the answer."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Where an answer first differs from the reference."""

    prompt: int
    """Its place in the list of prompts."""
    position: int
    """Token of the answer, from 0."""
    gap: float
    """The reference's distance between its two best logits there."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """What a strategy's answers have in common with the reference's."""

    tokens: int
    """Of all reference answers."""
    tokens_before: int
    """Of these, those before the first difference; beyond it an answer follows another text."""
    answers: int
    differences: tuple[Difference, ...]
    """One for each answer that differs."""

    @property
    def agreement(self) -> float:
        """Return the share of tokens before the first difference."""
        return self.tokens_before / self.tokens

    @property
    def equal(self) -> int:
        """Return the number of answers that are the reference's."""
        return self.answers - len(self.differences)

    @property
    def gaps(self) -> list[float]:
        """Return the gaps at the first differences, smallest first."""
        return sorted(difference.gap for difference in self.differences)

    def figures(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        return {
            "tokens": self.tokens,
            "agreement": round(self.agreement, 4),
            "answers": self.answers,
            "answers_equal": self.equal,
            "first_differences": [
                {"prompt": one.prompt, "position": one.position, "gap": round(one.gap, 4)} for one in self.differences
            ],
        }


def references(
    model: Path, prompts: Sequence[Sequence[int]], num_tokens: int, stops: frozenset[int], threads: int = 1
) -> list[Reference]:
    """Have `model` continue each prompt greedily, one token at a time from an empty cache. Raises ModelError."""
    with loaded(model, max(map(len, prompts)) + num_tokens, threads) as sole:
        texts = [sole.write(prompt, num_tokens, stops) for prompt in prompts]
        return [Reference(text, _gaps(sole.logits(text))) for text in texts]


def compare(found: Sequence[Sequence[int]], expected: Sequence[Reference]) -> Divergence:
    """Compare answers with the reference's, prompt by prompt."""
    before, differences = 0, []
    for prompt, (answer, one) in enumerate(zip(found, expected, strict=True)):
        position = first_difference(answer, one.text.answer)
        if position is None:
            before += len(one.text.answer)
            continue
        before += position
        # An answer that goes on where the reference ended differs behind its last decision.
        gap = one.gaps[min(position, len(one.gaps) - 1)]
        differences.append(Difference(prompt, position, gap))
    return Divergence(sum(len(one.gaps) for one in expected), before, len(expected), tuple(differences))


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """Return the first place at which two texts differ, None if they are equal."""
    pairs = enumerate(itertools.zip_longest(one, other))
    return next((place for place, (mine, theirs) in pairs if mine != theirs), None)


def typical_gap(expected: Sequence[Reference]) -> float:
    """Return the median gap of all decisions, to hold those of the differences against."""
    return statistics.median(gap for one in expected for gap in one.gaps)


def _gaps(logits: Floats) -> tuple[float, ...]:
    best = np.partition(logits, -2, axis=1)[:, -2:]
    return tuple(float(gap) for gap in best[:, 1] - best[:, 0])
