"""The token tree of one request: root = newest accepted token, all nodes below it are draft tokens.

Life of a node:

| state      | next       | when                                                          |
|------------|------------|---------------------------------------------------------------|
| PENDING    | DISPATCHED | a run carries it                                              |
| PENDING    | DEAD       | it or an ancestor was rejected, or a deeper exit disagreed    |
| DISPATCHED | DECIDED    | it is the root and the last stage decided the token after it  |
| DISPATCHED | DEAD       | it or an ancestor was rejected, or a deeper exit disagreed    |

In a level a correction from above rejects too, even a root that was accepted too soon.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from mpispec.core.ids import NodeId, Pos, RunId, SeqId, Token

BY_HEAD, BY_DRAFT, BY_EXIT = 1, 2, 4
"""What drafted a node, as bits of `Node.drafters`: a drafter of the head, the draft, an exit."""
_NO_RUN = RunId(-1)
_LEAST_PATH_PROB = 1e-200
"""Below this, path probabilities are divided by the root's before they become zero."""


class NodeState(Enum):
    """See the table at the top of the module."""

    PENDING = "pending"
    DISPATCHED = "dispatched"
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
    """Probability under the drafter, given the parent, the greatest where several drafted it; 1 if accepted."""
    path_prob: float
    """Probability that all tokens down to here are right, as a multiple of the root's: for comparing paths."""
    state: NodeState = NodeState.PENDING
    seq: SeqId | None = None
    """Sequence id of its cell, assigned when dispatched."""
    run: RunId = _NO_RUN
    """Run that carries it, once dispatched."""
    order: int = -1
    """How many of its tree's nodes were dispatched before it."""
    drafters: int = 0
    """All that drafted it, as bits; 0 for an accepted token that was not drafted."""
    depth: int = 1
    """Positions beyond the accepted text at which it was drafted."""
    is_asked: bool = False
    """Whether a drafter of the head that mixes with another has been asked what follows."""
    exit: int = 0
    """Deepest stage whose exit drafted it; 0: none did."""
    children: list[Node] = field(default_factory=list)

    def child(self, token: Token) -> Node | None:
        """Return the live child with this token."""
        for node in self.children:
            if node.token == token:
                return node
        return None

    def favourite(self) -> Node:
        """Return the child that has been dispatched, else the most probable; there must be one.

        So a chain stays a chain, even if a better child is drafted afterwards.
        """
        children = self.children
        if len(children) == 1:
            return children[0]
        return max(children, key=lambda child: (child.state is NodeState.DISPATCHED, child.prob))

    def subtree(self) -> Iterator[Node]:
        """Yield this node and all its descendants, parents first."""
        pending = [self]
        while pending:
            node = pending.pop()
            yield node
            pending += node.children[::-1]


class TokenTree:
    """Grown by drafters, pruned by verification; a path's tokens never change."""

    def __init__(self, root_id: NodeId, token: Token, pos: Pos) -> None:
        self.root = Node(root_id, None, NodeId(root_id - 1), token, pos, 1.0, 1.0)
        self._next_id = root_id + 1
        self._num_dispatched = 0
        self.num_speculative = 0
        """Living draft tokens that are dispatched: each has a cell."""
        self._ready: dict[NodeId, Node] = {}
        """What can be dispatched next, kept up to date because walking the tree for it costs more than all else."""

    def add(self, parent: Node, token: Token, prob: float, drafter: int = 0) -> Node:
        """Return the child of `parent` with this token, new or merged with an equal one."""
        known = parent.child(token)
        if known is not None:
            known.drafters |= drafter
            if prob > known.prob:
                known.prob = prob
                known.path_prob = parent.path_prob * prob
                self._rescale(known)
            return known
        pos = Pos(parent.pos + 1)
        node = Node(NodeId(self._next_id), parent, parent.id, token, pos, prob, parent.path_prob * prob)
        node.drafters = drafter
        node.depth = pos - self.root.pos
        self._next_id += 1
        parent.children.append(node)
        if parent.state is NodeState.DISPATCHED:
            self._ready[node.id] = node
        return node

    @property
    def seq(self) -> SeqId:
        """Sequence id of the accepted text; the root must have one."""
        assert self.root.seq is not None
        return self.root.seq

    def dispatch(self, node: Node, run: RunId) -> None:
        """Note that `run` carries `node`."""
        node.state = NodeState.DISPATCHED
        node.run = run
        node.order = self._num_dispatched
        self._num_dispatched += 1
        self.num_speculative += node is not self.root
        self._ready.pop(node.id, None)
        for child in node.children:
            self._ready[child.id] = child

    def ready(self) -> Collection[Node]:
        """Return the undispatched nodes whose parents are dispatched."""
        return self._ready.values()

    def advance(self, token: Token) -> list[Node]:
        """Accept `token` after the root: its node becomes the root; return the nodes that died, parents first."""
        winner = self.root.child(token) or self.add(self.root, token, 1.0)
        dead = self._kill(child for child in self.root.children if child is not winner)
        self.root.state = NodeState.DECIDED
        self.root.children = []
        self._ready.pop(winner.id, None)
        self.num_speculative -= winner.state is NodeState.DISPATCHED
        if winner.seq is None:
            winner.seq = self.root.seq
        winner.parent = None
        winner.prob = 1.0
        if winner.path_prob < _LEAST_PATH_PROB:
            winner.path_prob = 1.0
            self._rescale(winner)
        self.root = winner
        return dead

    def roll_back(self, root_id: NodeId, token: Token, pos: Pos) -> list[Node]:
        """Roll back to the accepted token that is named here; return the nodes that died."""
        dead = self._kill([self.root])
        self.num_speculative = 0
        self.root = Node(root_id, None, NodeId(root_id - 1), token, pos, 1.0, 1.0, seq=self.root.seq)
        return dead

    def prune_children(self, parent: Node | None = None) -> list[Node]:
        """Give up every draft token below a node, the root by default; return the nodes that died, parents first."""
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
        """Return the first position below all draft tokens."""
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
            self.num_speculative -= node.state is NodeState.DISPATCHED
            node.state = NodeState.DEAD
            self._ready.pop(node.id, None)
        return dead

    @staticmethod
    def _rescale(top: Node) -> None:
        for node in top.subtree():
            for child in node.children:
                child.path_prob = node.path_prob * child.prob
