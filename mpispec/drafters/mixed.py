"""A predictor next to a draft or exits (the other): both draft into one tree, where equal tokens are one node.

The predictor answers before the other has begun to compute. Dispatched at once, its poor draft token would take the
place of a good one that is about to come: for one run, or for good on quantised weights, where trees stay chains. So
its draft token is kept back until the other has drafted for the same position. Then it stands next to the other's, or
confirms it. One that is surer than the other's usually are waits only until all that the other has drafted is
dispatched, which feeds a pipeline whose draft is slow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence

from mpispec.core.ids import Token
from mpispec.core.strategy import Bounds
from mpispec.core.tree import BY_DRAFT, BY_EXIT, BY_HEAD, Node, NodeState, TokenTree
from mpispec.drafters.predictor import Predictor

_OTHERS = BY_DRAFT | BY_EXIT
_FIRST_RATE = 0.95
"""Acceptance rate assumed of the other before the first decision."""
_FADING = 1 / 32
"""Weight of the newest decision in that rate."""
_EARLY = 0.8
"""A draft token is sure enough if its chance to be wrong is at most this share of the other's. The other goes on below
its own for as long as it is right, so a wrong draft token in its place costs more than a right one brings."""
_LEAST_PATH_PROB = 0.1
"""A chain that the other does not confirm ends where its end is less likely than this: it costs the head time."""
_MOST_WAITING = 64
"""Nodes still to be asked about (law 7); older ones are decided before they can be of use."""


class Mixed:
    """A `Drafter` that asks its predictor once for each node that matters: about 2 us for a lookup of n-grams."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._waiting: deque[Node] = deque(maxlen=_MOST_WAITING)
        """Nodes that the other has drafted since we last grew the tree, and where we had to stop."""
        self._kept: tuple[Node, Token, float] | None = None
        """What we would draft below a node, and keep back until the other has drafted there."""
        self._root: Node | None = None
        """The root when we last grew the tree."""
        self._cut: Node | None = None
        """Where the farthest position ended a chain."""
        self._other_rate = _FIRST_RATE

    def begin(self, tokens: Sequence[int]) -> None:
        """See `Drafter`."""
        self._predictor.begin(tokens)

    def prepare(self) -> None:
        """See `Drafter`."""
        self._predictor.observe()

    def accepted(self, root: Node) -> None:
        """See `Drafter`; learn how often the other had drafted the decided token."""
        self._predictor.observe()
        self._other_rate += (bool(root.drafters & _OTHERS) - self._other_rate) * _FADING
        if self._cut is not None:
            self._waiting.append(self._cut)
            self._cut = None

    def also_drafted(self, node: Node) -> None:
        """See `Drafter`."""
        self._waiting.append(node)

    def grow(self, tree: TokenTree, bounds: Bounds, stops: Collection[Token]) -> None:
        """See `Drafter`; one draft token at most next to each of the other's, whatever the width."""
        farthest = bounds.farthest
        if tree.root is not self._root:
            self._root = tree.root
            self._begin_anew(tree)
        while self._waiting:
            node = self._waiting.popleft()
            if node.state is NodeState.PENDING or node.state is NodeState.DISPATCHED:
                released = self._released(node, tree)
                self._follow(node, tree, farthest, stops)
                if released is not None:
                    self._follow(released, tree, farthest, stops)
        if self._kept is not None and self._kept[0].state is NodeState.DISPATCHED:
            self._hasten(tree, farthest, stops)

    def _begin_anew(self, tree: TokenTree) -> None:
        """Remove what we drafted below an undispatched alternative that was accepted: the other drafts there now."""
        root = tree.root
        if root.state is NodeState.PENDING and root.is_asked:
            root.is_asked = False
            if all(child.drafters == BY_HEAD for child in root.children):
                tree.prune_children()
        if not root.is_asked:
            self._waiting.appendleft(root)

    def _hasten(self, tree: TokenTree, farthest: int, stops: Collection[Token]) -> None:
        """Draft before the other does if all that it has drafted is dispatched and we are sure enough."""
        assert self._kept is not None
        parent, token, prob = self._kept
        if self._is_sure(prob) and _is_due(parent):
            self._kept = None
            self._follow(tree.add(parent, token, prob, BY_HEAD), tree, farthest, stops)

    def _is_sure(self, prob: float) -> bool:
        return 1.0 - prob <= _EARLY * (1.0 - self._other_rate)

    def _released(self, node: Node, tree: TokenTree) -> Node | None:
        """Put what was kept back next to the other's draft token and return it; equal tokens merge."""
        if self._kept is None or self._kept[0] is not node.parent:
            return None
        parent, token, prob = self._kept
        self._kept = None
        return tree.add(parent, token, prob, BY_HEAD)

    def _follow(self, node: Node, tree: TokenTree, farthest: int, stops: Collection[Token]) -> None:
        """Draft below `node`, and below that, as long as it is likely or agrees with what is there."""
        path = tree.path(node)
        path_prob = 1.0
        while not node.is_asked and node.token not in stops:
            if node.pos >= farthest:
                self._cut = node
                return
            node.is_asked = True
            predictions = self._predictor.predict(path, 1)
            if not predictions:
                return
            token, prob = Token(predictions[0][0]), predictions[0][1]
            is_ours = node.drafters == BY_HEAD
            if not (is_ours and self._is_sure(prob)) and _is_due(node):
                self._kept = (node, token, prob)
                return
            node = tree.add(node, token, prob, BY_HEAD)
            path_prob = 1.0 if node.drafters & _OTHERS else path_prob * prob
            if path_prob < _LEAST_PATH_PROB:
                return
            path.append(token)


def _is_due(node: Node) -> bool:
    """Tell whether the other may be about to draft what follows `node`: it has not gone another way, or past it."""
    while not any(child.drafters & _OTHERS for child in node.children):
        if node.parent is None or node.drafters & _OTHERS:
            return True
        node = node.parent
    return False
