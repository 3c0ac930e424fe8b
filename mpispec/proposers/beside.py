"""A guesser beside a draft or exits: both guess into one tree, where equal tokens are one node.

The guesser answers before the other has begun to think. Launched at once, a poor guess would take the place of a good
one that is about to come: on quantised weights for good, because trees stay chains there, and else for one run. So
a guess is kept back until the other has guessed for the same position, and then stands beside it, or confirms it. One
that is surer than the other's usually are waits only until all that the other has guessed is under way, which feeds a
pipeline whose draft is slow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence

from mpispec.core.ids import Token
from mpispec.core.tree import BY_DRAFT, BY_EXIT, BY_HEAD, Node, NodeState, TokenTree
from mpispec.proposers.chain import Guesser

_OTHERS = BY_DRAFT | BY_EXIT
_FIRST_RATE = 0.95
"""How often the other is taken to be right before anything was decided."""
_FADING = 1 / 32
"""Weight of the newest decision in how often it has been."""
_EARLY = 0.8
"""Sure enough is a guess whose chance to be wrong is at most this share of the other's. The other goes on below its
guess for as long as it is right, so a wrong guess in its place costs more than a right one brings."""
_LEAST_REACH = 0.1
"""A chain of guesses that nobody confirms ends where its end is less likely than this: it costs the head time."""
_MOST_WAITING = 64
"""Nodes to be asked about (law 7); the older ones are decided sooner than they can be of use."""


class Beside:
    """A `Proposer` that asks its guesser once for each node that matters: about 2 us a lookup of n-grams."""

    def __init__(self, guesser: Guesser) -> None:
        self._guesser = guesser
        self._waiting: deque[Node] = deque(maxlen=_MOST_WAITING)
        """Nodes that the other has guessed since we last grew the tree, and where we had to stop."""
        self._kept: tuple[Node, Token, float] | None = None
        """What we would guess below a node for which the other's guess has not come yet."""
        self._root: Node | None = None
        """The root when we last grew the tree."""
        self._cut: Node | None = None
        """Where the farthest position ended a chain."""
        self._other_rate = _FIRST_RATE

    def begin(self, tokens: Sequence[int]) -> None:
        """See `Proposer`."""
        self._guesser.begin(tokens)

    def accepted(self, root: Node) -> None:
        """See `Proposer`; learn how often the other had guessed what was decided."""
        self._guesser.observe()
        self._other_rate += (bool(root.guessers & _OTHERS) - self._other_rate) * _FADING
        if self._cut is not None:
            self._waiting.append(self._cut)
            self._cut = None

    def met(self, node: Node) -> None:
        """See `Proposer`."""
        self._waiting.append(node)

    def grow(self, tree: TokenTree, farthest: int, stops: Collection[Token]) -> None:
        """See `Proposer`."""
        if tree.root is not self._root:
            self._root = tree.root
            self._begin_anew(tree)
        while self._waiting:
            node = self._waiting.popleft()
            if node.state is NodeState.PROPOSED or node.state is NodeState.LAUNCHED:
                beside = self._released(node, tree)
                self._follow(node, tree, farthest, stops)
                if beside is not None:
                    self._follow(beside, tree, farthest, stops)
        if self._kept is not None and self._kept[0].state is NodeState.LAUNCHED:
            self._hasten(tree, farthest, stops)

    def _begin_anew(self, tree: TokenTree) -> None:
        """Take back what we guessed below an alternative that was right and not launched: the other turns to it now."""
        root = tree.root
        if root.state is NodeState.PROPOSED and root.is_asked:
            root.is_asked = False
            if all(child.guessers == BY_HEAD for child in root.children):
                tree.prune_children()
        if not root.is_asked:
            self._waiting.appendleft(root)

    def _hasten(self, tree: TokenTree, farthest: int, stops: Collection[Token]) -> None:
        """Guess before the other does where all that it has guessed is launched, if we are sure enough."""
        assert self._kept is not None
        parent, token, prob = self._kept
        if self._is_sure(prob) and _is_due(parent):
            self._kept = None
            self._follow(tree.add(parent, token, prob, BY_HEAD), tree, farthest, stops)

    def _is_sure(self, prob: float) -> bool:
        return 1.0 - prob <= _EARLY * (1.0 - self._other_rate)

    def _released(self, node: Node, tree: TokenTree) -> Node | None:
        """Put what was kept back beside the other's guess and return it; equal tokens merge."""
        if self._kept is None or self._kept[0] is not node.parent:
            return None
        parent, token, prob = self._kept
        self._kept = None
        return tree.add(parent, token, prob, BY_HEAD)

    def _follow(self, node: Node, tree: TokenTree, farthest: int, stops: Collection[Token]) -> None:
        """Guess below `node`, and below that, as long as it is likely or agrees with what is there."""
        path = tree.path(node)
        reach = 1.0
        while not node.is_asked and node.token not in stops:
            if node.pos >= farthest:
                self._cut = node
                return
            node.is_asked = True
            guess = self._guesser.guess(path)
            if guess is None:
                return
            token, prob = Token(guess[0]), guess[1]
            is_ours = node.guessers == BY_HEAD
            if not (is_ours and self._is_sure(prob)) and _is_due(node):
                self._kept = (node, token, prob)
                return
            node = tree.add(node, token, prob, BY_HEAD)
            reach = 1.0 if node.guessers & _OTHERS else reach * prob
            if reach < _LEAST_REACH:
                return
            path.append(token)


def _is_due(node: Node) -> bool:
    """Tell whether the other may be about to guess what follows `node`: it has not gone another way, or past it."""
    while not any(child.guessers & _OTHERS for child in node.children):
        if node.parent is None or node.guessers & _OTHERS:
            return True
        node = node.parent
    return False
