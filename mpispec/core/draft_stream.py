"""One request as the draft sees it: the accepted text, the tree below it, and what is to be expanded next."""

from __future__ import annotations

from mpispec.core.cells import Slot
from mpispec.core.events import DraftToken, ProtocolError
from mpispec.core.ids import NodeId, Pos, Token
from mpispec.core.messages import Prime
from mpispec.core.sequences import inherits
from mpispec.core.text import Text
from mpispec.core.tree import Node, NodeState

_SPARES = 16
"""Spare draft tokens kept for each of a layer's places. Beyond that, a node without any other keeps one: it has been
computed and is not expanded again, should it become the root."""


class DraftStream(Text):
    """One request as the draft sees it."""

    def __init__(self, prime: Prime, slot: Slot, cached: int) -> None:
        super().__init__(prime.tokens, slot, cached)
        self.prime = prime
        self.request = prime.request
        self.has_begun = False
        """Whether anything has been computed for it since it had no cells."""
        self.is_open = False
        """Whether it has a sampler."""
        self.width = prime.width
        self.floor = prime.floor
        self.limit = prime.limit
        self.epoch = prime.epoch
        self.spares: list[tuple[float, Node, DraftToken]] = []
        """Draft tokens that were not among the best of their layer, with the probability of their paths."""

    def follow(self, pos: Pos, tokens: tuple[Token, ...]) -> list[Node]:
        """Accept tokens; return the nodes that died."""
        if pos != len(self.tokens):
            raise ProtocolError(f"tokens from position {pos} on were accepted where {len(self.tokens)} was due")
        return [node for token in tokens for node in self.advance(token)]

    def roll_back(self, pos: Pos, computed: int) -> list[Node]:
        """Take back the accepted tokens from `pos` on; return the nodes that died.

        `computed` is how many tokens have cells whatever becomes of the run under way.
        """
        if not 0 < pos <= len(self.tokens):
            raise ProtocolError(f"tokens from position {pos} on were taken back of {len(self.tokens)}")
        dead = self.cut(pos)
        self.filled = min(self.filled, computed)
        self.answered_to = min(self.answered_to, computed)
        self.spares = []
        return dead

    def empty(self) -> list[Node]:
        """Give up all draft tokens and cells; return the nodes that died."""
        dead = self.tree.prune_children()
        root = self.root
        self.tree.roll_back(root.id, root.token, root.pos)
        self.filled = self.answered_to = 0
        self.has_begun = False
        self.spares = []
        return dead

    def frontier(self, num_free: int) -> list[Node]:
        """Return the nodes to expand next: the likeliest and the best of its layer; the root alone.

        Where no sequence id is free (`num_free`), only those that need none.
        """
        if self.root.pos + 1 >= self.limit:
            return []
        if self.root.state is NodeState.PENDING:
            return [self.root]
        waiting = [node for node in self.tree.ready() if node.pos + 1 < self.limit and (num_free > 0 or inherits(node))]
        if not waiting:
            return []
        waiting.sort(key=lambda node: (-node.path_prob, node.id))
        layer = [node for node in waiting if node.pos == waiting[0].pos][: self.width]
        return [node for node in layer if node.path_prob >= self.floor * layer[0].path_prob]

    def worth(self, num_free: int) -> float:
        """Return the chance of the likeliest node to expand next; 1 for the root, 0 where there is none."""
        return max((node.path_prob for node in self.frontier(num_free)), default=0.0) / self.root.path_prob

    def grow(self, nodes: list[Node], draft_tokens: tuple[tuple[DraftToken, ...], ...]) -> list[Node]:
        """Add the best draft tokens below computed nodes, at most `width` for a position; return the new nodes."""
        candidates = [
            (node.path_prob * draft_token[1], node, draft_token)
            for node, found in zip(nodes, draft_tokens, strict=True)
            if node.state is NodeState.DISPATCHED
            for draft_token in found
        ]
        return self._take(candidates + self._living_spares())

    def refill(self) -> list[Node]:
        """Add spare draft tokens where rejections have thinned a layer; return the new nodes."""
        return self._take(self._living_spares())

    def _living_spares(self) -> list[tuple[float, Node, DraftToken]]:
        return [spare for spare in self.spares if spare[1].state is NodeState.DISPATCHED]

    def _take(self, candidates: list[tuple[float, Node, DraftToken]]) -> list[Node]:
        layers: dict[int, int] = {}
        for node in self.root.subtree():
            layers[node.pos] = layers.get(node.pos, 0) + 1
        added: list[Node] = []
        kept: set[NodeId] = set()
        self.spares = []
        # Paths compare by today's path probability: it may have been rescaled when the root advanced.
        ranked = sorted(
            ((parent.path_prob * draft_token[1], index) for index, (_, parent, draft_token) in enumerate(candidates)),
            key=lambda pair: (-pair[0], pair[1]),
        )
        for path_prob, index in ranked:
            _, parent, draft_token = candidates[index]
            pos = parent.pos + 1
            if layers.get(pos, 0) < self.width:
                layers[pos] = layers.get(pos, 0) + 1
                added.append(self.tree.add(parent, draft_token[0], draft_token[1]))
            elif len(self.spares) < _SPARES * self.width or not (parent.children or parent.id in kept):
                kept.add(parent.id)
                self.spares.append((path_prob, parent, draft_token))
        return added
