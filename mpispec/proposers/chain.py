"""A guesser, which guesses one token at a time in the head, and the proposer that it makes alone: a chain."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from mpispec.core.ids import Token
from mpispec.core.tree import BY_HEAD, Node, TokenTree


class Guesser(Protocol):
    """Knows the accepted tokens and answers at once."""

    def begin(self, tokens: Sequence[int]) -> None:
        """Start a request; `tokens` is the head's own list of accepted tokens, which will grow."""

    def observe(self) -> None:
        """Hear that the list of accepted tokens has grown."""

    def guess(self, path: Sequence[int]) -> tuple[int, float] | None:
        """Return the likeliest token after the accepted tokens and `path`, with its probability."""


class Chain:
    """A `Proposer` made of one guesser."""

    def __init__(self, guesser: Guesser) -> None:
        self._guesser = guesser

    def begin(self, tokens: Sequence[int]) -> None:
        """See `Proposer`."""
        self._guesser.begin(tokens)

    def accepted(self, root: Node) -> None:
        """See `Proposer`."""
        self._guesser.observe()

    def met(self, node: Node) -> None:
        """See `Proposer`; what others guess is lengthened like everything else."""

    def grow(self, tree: TokenTree, farthest: int, stops: Collection[Token]) -> None:
        """See `Proposer`."""
        tip = tree.tip()
        path = tree.path(tip)
        while tip.pos < farthest and tip.token not in stops:
            guess = self._guesser.guess(path)
            if guess is None:
                return
            tip = tree.add(tip, Token(guess[0]), guess[1], BY_HEAD)
            path.append(tip.token)
