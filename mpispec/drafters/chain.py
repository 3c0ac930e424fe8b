"""A predictor, which predicts one token at a time in the head, and the drafter that it makes alone: a chain."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from mpispec.core.ids import Token
from mpispec.core.tree import BY_HEAD, Node, TokenTree


class Predictor(Protocol):
    """Knows the accepted tokens and answers at once."""

    def begin(self, tokens: Sequence[int]) -> None:
        """Start a request; `tokens` is the head's own list of accepted tokens, which will grow."""

    def observe(self) -> None:
        """Note that the list of accepted tokens has grown."""

    def predict(self, path: Sequence[int]) -> tuple[int, float] | None:
        """Return the likeliest token after the accepted tokens and `path`, with its probability."""


class Chain:
    """A `Drafter` made of one predictor."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def begin(self, tokens: Sequence[int]) -> None:
        """See `Drafter`."""
        self._predictor.begin(tokens)

    def accepted(self, root: Node) -> None:
        """See `Drafter`."""
        self._predictor.observe()

    def also_drafted(self, node: Node) -> None:
        """See `Drafter`; nothing to note: `grow` continues every drafter's chain."""

    def grow(self, tree: TokenTree, farthest: int, stops: Collection[Token]) -> None:
        """See `Drafter`."""
        tip = tree.tip()
        path = tree.path(tip)
        while tip.pos < farthest and tip.token not in stops:
            prediction = self._predictor.predict(path)
            if prediction is None:
                return
            tip = tree.add(tip, Token(prediction[0]), prediction[1], BY_HEAD)
            path.append(tip.token)
