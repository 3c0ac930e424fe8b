"""A guesser alone: it lengthens the most probable path as far as it may."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from mpispec.core.ids import Token
from mpispec.core.tree import BY_HEAD, Node, TokenTree
from mpispec.proposers.guesser import Guesser


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
