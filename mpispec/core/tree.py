"""The token tree of one request: root = newest accepted token, everything below is a guess.

Life of a node:

| state    | next     | when                                                        |
|----------|----------|-------------------------------------------------------------|
| PROPOSED | LAUNCHED | a run carries it                                            |
| PROPOSED | DEAD     | a verdict refused it or an ancestor, or a deeper exit did   |
| LAUNCHED | DECIDED  | it is the root and the last stage decided the token after it|
| LAUNCHED | DEAD     | a verdict refused it or an ancestor, or a deeper exit did   |

In a level a correction from above counts as a verdict, and may make a root dead that was accepted too soon.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from mpispec.core.ids import NodeId, Pos, RunId, SeqId, Token

BY_HEAD, BY_DRAFT, BY_EXIT = 1, 2, 4
"""Who guessed a node, as bits of `Node.guessers`: a proposer of the head, the draft, an exit."""
_NO_RUN = RunId(-1)
_LEAST_REACH = 1e-200
"""Below this, reaches are divided by the root's before they become zero."""


class NodeState(Enum):
    """See the table at the top of the module."""

    PROPOSED = "proposed"
    LAUNCHED = "launched"
    DECIDED = "decided"
    DEAD = "dead"


@dataclass(slots=True, eq=False)
class Node:
    """One token at one position, reached by one path."""

    id: NodeId
    parent: Node | None
    parent_id: NodeId
    """Outlives `parent`, which a root no longer has."""
    token: Token
    pos: Pos
    prob: float
    """Probability under the proposer, given the parent, the greatest where several guessed it; 1 if accepted."""
    reach: float
    """Probability that all tokens down to here are right, as a multiple of the root's: for comparing paths."""
    state: NodeState = NodeState.PROPOSED
    seq: SeqId | None = None
    """Sequence id of its cell, assigned when launched."""
    run: RunId = _NO_RUN
    """Run that carries it, once launched."""
    order: int = -1
    """The how-manieth of its tree's nodes it was to be launched."""
    guessers: int = 0
    """Everyone who guessed it, as bits; 0 for an accepted token that nobody did."""
    depth: int = 1
    """Positions beyond the accepted text at which it was guessed."""
    is_asked: bool = False
    """Whether a proposer of the head that mixes with another has been asked what follows."""
    exit: int = 0
    """Deepest stage whose exit guessed it; 0: somebody else did."""
    children: list[Node] = field(default_factory=list)

    def child(self, token: Token) -> Node | None:
        """Return the live child with this token."""
        for node in self.children:
            if node.token == token:
                return node
        return None

    def favourite(self) -> Node:
        """Return the child that has been launched, else the most probable; there must be one.

        What follows it remains a chain, whoever guesses a better child afterwards.
        """
        children = self.children
        if len(children) == 1:
            return children[0]
        return max(children, key=lambda child: (child.state is NodeState.LAUNCHED, child.prob))

    def subtree(self) -> Iterator[Node]:
        """Yield this node and all its descendants, parents first."""
        pending = [self]
        while pending:
            node = pending.pop()
            yield node
            pending += node.children[::-1]


class TokenTree:
    """Grown by proposals, pruned by verdicts; a path's tokens never change."""

    def __init__(self, root_id: NodeId, token: Token, pos: Pos) -> None:
        self.root = Node(root_id, None, NodeId(root_id - 1), token, pos, 1.0, 1.0)
        self._next_id = root_id + 1
        self._num_launched = 0
        self._ready: dict[NodeId, Node] = {}
        """What can be launched next, kept up to date because walking the tree for it costs more than all else."""

    def add(self, parent: Node, token: Token, prob: float, guesser: int = 0) -> Node:
        """Return the child of `parent` with this token, new or merged with an equal one."""
        known = parent.child(token)
        if known is not None:
            known.guessers |= guesser
            if prob > known.prob:
                known.prob = prob
                known.reach = parent.reach * prob
                self._rescale(known)
            return known
        pos = Pos(parent.pos + 1)
        node = Node(NodeId(self._next_id), parent, parent.id, token, pos, prob, parent.reach * prob)
        node.guessers = guesser
        node.depth = pos - self.root.pos
        self._next_id += 1
        parent.children.append(node)
        if parent.state is NodeState.LAUNCHED:
            self._ready[node.id] = node
        return node

    def launch(self, node: Node, run: RunId) -> None:
        """Note that `run` carries `node`."""
        node.state = NodeState.LAUNCHED
        node.run = run
        node.order = self._num_launched
        self._num_launched += 1
        self._ready.pop(node.id, None)
        for child in node.children:
            self._ready[child.id] = child

    def ready(self) -> Collection[Node]:
        """Return the unlaunched nodes whose parents are launched."""
        return self._ready.values()

    def advance(self, token: Token) -> list[Node]:
        """Accept `token` after the root: its node becomes the root; return the nodes that died, parents first."""
        winner = self.root.child(token) or self.add(self.root, token, 1.0)
        dead = self._kill(child for child in self.root.children if child is not winner)
        self.root.state = NodeState.DECIDED
        self.root.children = []
        self._ready.pop(winner.id, None)
        winner.parent = None
        winner.prob = 1.0
        if winner.reach < _LEAST_REACH:
            winner.reach = 1.0
            self._rescale(winner)
        self.root = winner
        return dead

    def rewind(self, root_id: NodeId, token: Token, pos: Pos) -> list[Node]:
        """Take accepted tokens back to the one that is named here; return the nodes that died."""
        dead = self._kill([self.root])
        self.root = Node(root_id, None, NodeId(root_id - 1), token, pos, 1.0, 1.0, seq=self.root.seq)
        return dead

    def prune_children(self, parent: Node | None = None) -> list[Node]:
        """Give up every guess below a node, the root by default; return the nodes that died, parents first."""
        parent = parent or self.root
        dead = self._kill(parent.children)
        parent.children = []
        return dead

    def tip(self) -> Node:
        """Return the end of the most probable path from the root."""
        node = self.root
        while node.children:
            node = node.favourite()
        return node

    def end(self) -> Pos:
        """Return the first position below all guesses."""
        return Pos(max(node.pos for node in self.root.subtree()) + 1)

    @staticmethod
    def path(node: Node) -> list[Token]:
        """Return the tokens from the child of the root down to `node`."""
        tokens: list[Token] = []
        while node.parent is not None:
            tokens.append(node.token)
            node = node.parent
        tokens.reverse()
        return tokens

    def _kill(self, tops: Iterable[Node]) -> list[Node]:
        dead = [node for top in tops for node in top.subtree()]
        for node in dead:
            node.state = NodeState.DEAD
            self._ready.pop(node.id, None)
        return dead

    @staticmethod
    def _rescale(top: Node) -> None:
        for node in top.subtree():
            for child in node.children:
                child.reach = node.reach * child.prob
