"""A grammar led along texts: where a token stands in it, and what may come next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from mpispec.grammars.library import first_error

_SAVED_EVERY = 16
"""Tokens between two spare copies. One is 131 KB and 0.17 ms after 1,500 tokens: too much for every row."""


class Walk:
    """One matcher that goes from one text to the next by way of what both begin with.

    A matcher takes tokens back in 2 us whatever the length of the text, while a copy grows with it. So the rows of a
    tree share one (law 7). One that passes a limit on a wrong path cannot go on: then a spare copy takes its place.
    """

    def __init__(self, beginning: LLMatcher, eog: frozenset[int]) -> None:
        """`beginning` stands before the first token of a text, and stays there."""
        self.tokens: list[int] = []
        """The text as far as it is legal."""
        self.eog = eog
        self._beginning = beginning
        self._matcher = beginning.deep_copy()
        self._spare = beginning
        self._spare_tokens: list[int] = []

    def go(self, common: int, rest: Sequence[int]) -> bool:
        """Go to the text of the first `common` of our tokens and then `rest`; return whether it is legal.

        If it is not we stand after the last token that is.
        """
        if self._matcher.is_error():
            common, rest = self._restored([*self.tokens[:common], *rest])
        if common < len(self.tokens):
            self._matcher.rollback(len(self.tokens) - common)
            del self.tokens[common:]
        for token in rest:
            if token in self.eog or not self._matcher.try_consume_tokens([token]) or self._matcher.is_error():
                return False
            self.tokens.append(token)
            if len(self.tokens) % _SAVED_EVERY == 0:
                self._spare, self._spare_tokens = self._matcher.deep_copy(), [*self.tokens]
        return True

    def allowed(self) -> NDArray[np.bool_] | None:
        """Return which tokens may come next, bool [vocabulary or a few more]; None if there are none.

        That is so where the grammar is too complex from here on.
        """
        if self._matcher.is_error():
            return None
        mask = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little").view(np.bool_)
        return None if self._matcher.is_error() or not mask.any() else mask

    def allows(self, token: int) -> bool:
        """Tell whether a token may come next."""
        if self._matcher.is_error():
            return False
        return self._matcher.is_accepting() if token in self.eog else self._matcher.validate_tokens([token]) == 1

    def forced(self) -> list[int]:
        """Return the tokens that surely come next, as the tokenizer would write them; none if there is a choice.

        The model may write the same text in other tokens.
        """
        if self._matcher.is_error() or self._matcher.is_stopped():
            return []
        tokens = self._matcher.compute_ff_tokens()
        return tokens[: self._matcher.validate_tokens(tokens)]

    @property
    def error(self) -> str:
        """Why nothing may come next, in a line; an empty text where the grammar is not too complex."""
        return first_error(self._matcher)

    @property
    def is_complete(self) -> bool:
        """Whether the text may end here."""
        return not self._matcher.is_error() and self._matcher.is_accepting()

    def _restored(self, wanted: list[int]) -> tuple[int, list[int]]:
        """Put a spare copy in the place of a broken matcher; return what it has in common with the wanted text."""
        common = 0
        for ours, theirs in zip(self._spare_tokens, wanted, strict=False):
            if ours != theirs:
                break
            common += 1
        self._matcher, self.tokens = self._spare.deep_copy(), [*self._spare_tokens]
        return common, wanted[common:]
