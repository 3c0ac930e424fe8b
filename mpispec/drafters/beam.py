"""The drafter that a predictor makes alone: a chain where the strategy's width is 1, else a tree of that width."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from mpispec.core.ids import Token
from mpispec.core.strategy import Bounds
from mpispec.core.tree import BY_HEAD, Node, TokenTree
from mpispec.drafters.predictor import Predictor


class Beam:
    """A `Drafter` made of one predictor: a beam search, which goes on below the likeliest draft tokens of a layer."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._grown: tuple[Node, Bounds] | None = None
        """Root and bounds of the last time: while they stay the same there is nothing to add."""

    def begin(self, tokens: Sequence[int]) -> None:
        """See `Drafter`."""
        self._predictor.begin(tokens)

    def prepare(self) -> None:
        """See `Drafter`."""
        self._predictor.observe()

    def accepted(self, root: Node) -> None:
        """See `Drafter`."""
        self._predictor.observe()

    def also_drafted(self, node: Node) -> None:
        """See `Drafter`; nothing to note: `grow` goes on below every drafter's draft tokens."""

    def grow(self, tree: TokenTree, bounds: Bounds, stops: Collection[Token]) -> None:
        """See `Drafter`."""
        if self._grown == (tree.root, bounds):
            return
        self._grown = (tree.root, bounds)
        layer = [tree.root]
        while layer and layer[0].pos < bounds.farthest:
            below = [child for node in layer for child in node.children]
            leaves = [node for node in layer if not node.children and node.token not in stops]
            below += self._drafted(leaves, tree, bounds)
            layer = below if len(below) <= bounds.width else sorted(below, key=_unlikeliness)[: bounds.width]

    def _drafted(self, leaves: Sequence[Node], tree: TokenTree, bounds: Bounds) -> list[Node]:
        """Add what is likeliest below the leaves of a layer; return it."""
        least = bounds.least_path_prob * tree.root.path_prob
        offers = [
            (node.path_prob * prob, node, token, prob)
            for node in leaves
            for token, prob in self._predictor.predict(tree.path(node), bounds.width)
            if node.path_prob * prob >= least
        ]
        if len(leaves) > 1:
            offers.sort(key=lambda offer: offer[0], reverse=True)
        return [tree.add(node, Token(token), prob, BY_HEAD) for _, node, token, prob in offers[: bounds.width]]


def _unlikeliness(node: Node) -> float:
    return -node.path_prob
