"""The accepted text of a request with the tree of draft tokens below it, as head and draft both keep it."""

from __future__ import annotations

from collections.abc import Sequence

from mpispec.core.cells import Slot
from mpispec.core.ids import NodeId, Pos, SeqId, Token
from mpispec.core.tree import Node, NodeState, TokenTree


class Text:
    """Accepted tokens, which of them have cells, and the tree that hangs from the last."""

    def __init__(self, tokens: Sequence[Token], slot: Slot, cached: int) -> None:
        """Begin with `tokens`, the first `cached` of which have cells in the caches of `slot`."""
        self.slot = slot
        slot.holder = self
        self.tokens = list(tokens)
        """The accepted tokens, those of the prompt first; the last of them is the root."""
        self.ids = [NodeId(pos) for pos in range(len(self.tokens))]
        """Their nodes."""
        self.filled = cached
        """How many of them have cells, or are being computed."""
        self.answered_to = cached
        """How many of them are sure to have cells, whatever becomes of what is being computed."""
        self.tree = TokenTree(self.ids[-1], self.tokens[-1], Pos(len(self.tokens) - 1))
        self.tree.root.seq = slot.seq

    @property
    def root(self) -> Node:
        """The newest accepted token."""
        return self.tree.root

    @property
    def seq(self) -> SeqId:
        """Sequence id of the accepted text."""
        return self.tree.seq

    @property
    def num_speculative(self) -> int:
        """Living draft tokens that have cells, or are being computed."""
        return self.tree.num_speculative

    def advance(self, token: Token) -> list[Node]:
        """Accept a token; return the nodes that died."""
        dead = self.tree.advance(token)
        self.tokens.append(token)
        self.ids.append(self.root.id)
        if self.root.state is NodeState.DISPATCHED:
            self.filled = len(self.tokens)
        return dead

    def cut(self, pos: Pos) -> list[Node]:
        """Take back the accepted tokens from `pos` on; return the nodes that died."""
        dead = self.tree.roll_back(self.ids[pos - 1], self.tokens[pos - 1], Pos(pos - 1))
        del self.tokens[pos:], self.ids[pos:]
        self.filled = min(self.filled, pos)
        self.answered_to = min(self.answered_to, pos)
        return dead
