"""A predictor within a grammar: it predicts nothing illegal, and what the grammar forces it knows for sure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from mpispec.drafters.predictor import Predictor

FORCED = 1.0
"""Chance of a forced token: its text is certain, and of 227 none was written in other tokens (ADR 0041)."""


class Rules(Protocol):
    """A grammar that is led along texts, `grammars.walk.Walk`."""

    tokens: list[int]
    """The text where it stands."""

    def go(self, common: int, rest: Sequence[int]) -> bool:
        """Go to the first `common` of those tokens and then `rest`; return whether that is legal."""

    def allows(self, token: int) -> bool:
        """Tell whether a token may come next."""

    def forced(self) -> list[int]:
        """Return the tokens that surely come next."""


class Grammatical:
    """A `Predictor` that wraps another."""

    def __init__(self, inner: Predictor, rules: Callable[[], Rules | None], start: int) -> None:
        """`rules` returns None until they are compiled; `start` is the position of the answer's first token."""
        self._inner = inner
        self._rules = rules
        self._start = start
        self._tokens: Sequence[int] = ()
        self._num_sure = 0
        """How many tokens of the rules are known to be accepted ones."""

    def begin(self, tokens: Sequence[int]) -> None:
        """See `Predictor`."""
        self._tokens = tokens
        self._num_sure = 0
        self._inner.begin(tokens)

    def observe(self) -> None:
        """See `Predictor`."""
        self._inner.observe()

    def predict(self, path: Sequence[int], width: int) -> Sequence[tuple[int, float]]:
        """See `Predictor`. Where the grammar leaves no choice, the inner one is not asked."""
        rules = self._rules()
        if rules is None or not self._lead(rules, path):
            return []
        if forced := rules.forced():
            return [(forced[0], FORCED)]
        return [(token, prob) for token, prob in self._inner.predict(path, width) if rules.allows(token)]

    def _lead(self, rules: Rules, path: Sequence[int]) -> bool:
        """Lead the rules to the end of the accepted answer and a path below it; return whether that is legal."""
        num_accepted = len(self._tokens) - self._start
        common = self._num_sure = min(self._num_sure, len(rules.tokens))
        wanted = [*self._tokens[self._start + common :], *path]
        for ours, theirs in zip(rules.tokens[common:], wanted, strict=False):
            if ours != theirs:
                break
            common += 1
        is_legal = rules.go(common, wanted[common - self._num_sure :])
        self._num_sure = min(num_accepted, len(rules.tokens))
        return is_legal
