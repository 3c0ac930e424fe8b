"""Assigning sequence ids and planning the cache edits that keep all stages equal (design, Token trees).

The first child launched after a node inherits its id, a further child gets a fresh one that shares the ancestors'
cells. When nodes die their ids are dropped; the winner simply stays. A chain therefore only ever truncates, which
keeps llama.cpp's order of cells and with it the bits of the logits (llama-layer-ranges, What is exact).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from mpispec.core.ids import Pos, SeqId
from mpispec.core.messages import Edit, EditOp
from mpispec.core.tree import Node

TO_END = -1


class SequencePool:
    """Ids 0 .. size-1, lowest free id first, so that equal histories give equal ids."""

    def __init__(self, size: int) -> None:
        self._free = list(range(size))
        self._is_free = [True] * size
        self.size = size

    @property
    def num_free(self) -> int:
        """Ids that can still be taken."""
        return len(self._free)

    def take(self) -> SeqId | None:
        """Take a free id, or None if all are in use."""
        if not self._free:
            return None
        seq = heapq.heappop(self._free)
        self._is_free[seq] = False
        return SeqId(seq)

    def release(self, seq: SeqId) -> None:
        """Give an id back."""
        assert not self._is_free[seq], f"sequence {seq} released twice"
        self._is_free[seq] = True
        heapq.heappush(self._free, seq)


def label(node: Node, pool: SequencePool) -> list[Edit] | None:
    """Assign a sequence id to a node about to be launched; return the edits it needs, None if no id is free.

    The parent must be launched already, for a second child in an earlier run: a share copies labels of cells that
    exist when the run arrives.
    """
    parent = node.parent
    assert parent is not None and parent.seq is not None
    if all(sibling.seq != parent.seq for sibling in parent.children):
        node.seq = parent.seq
        return []
    seq = pool.take()
    if seq is None:
        return None
    node.seq = seq
    return [Edit(EditOp.SHARE, parent.seq, seq, Pos(0), node.pos)]


def bury(dead: Iterable[Node], root: Node, pool: SequencePool) -> list[Edit]:
    """Plan the edits that free the cells of dead nodes, and give their ids back.

    `root` is the survivor: the new root, or the living node below which they died. Its own id, where a dead node
    inherited it, is truncated at the first dead position; any other was taken among the dead and is dropped whole.
    """
    first: dict[SeqId, Pos] = {}
    for node in dead:
        if node.seq is not None:
            first[node.seq] = min(first.get(node.seq, node.pos), node.pos)
    edits = []
    for seq, pos in sorted(first.items()):
        if seq == root.seq:
            edits.append(Edit(EditOp.DROP, seq, seq, pos, TO_END))
        else:
            edits.append(Edit(EditOp.DROP, seq, seq, Pos(0), TO_END))
            pool.release(seq)
    return edits
