"""Cells of dead nodes stay in use until none is left that is newer, so that no younger token gets an older place.

llama.cpp gives a row the first free cell and sums attention in the order of cells, so a token in a hole that a pruned
sibling has left is summed before its own ancestors, and the last bits of its logits differ (measured, docs:
Exactness). Where nothing alive was launched after the dead, as in every chain, their cells are freed at once: they are
the last ones. Others move to a label of their own, the grave, until the accepted text is all that is alive; then the
grave is emptied and the text's cells are gathered in the order of positions.
"""

from __future__ import annotations

from collections.abc import Sequence

from mpispec.core.ids import Pos, SeqId
from mpispec.core.messages import Edit, EditOp
from mpispec.core.sequences import TO_END, SequencePool, bury, first_positions
from mpispec.core.tree import Node, NodeState

MOST_CELLS = 448
"""Dead cells for which the stages' caches have room; emptying costs a copy of the text's cells, so not too few."""
_EMPTY_FROM = 2
"""The grave is emptied, where it costs least, once it is so many times less than full."""


class Graves:
    """The grave of a head whose stages compute one request at a time."""

    def __init__(self, pool: SequencePool, most_cells: int) -> None:
        """Keep at most about `most_cells` dead cells; none where 0, or where there is no id for a grave."""
        self._pool = pool
        self._most_cells = most_cells
        self.seq = pool.take() if most_cells else None
        """Label of the dead."""
        self._num_cells = 0

    @property
    def is_full(self) -> bool:
        """Whether it must be emptied before more guesses are launched."""
        return self.seq is not None and self._num_cells >= self._most_cells

    @property
    def is_due(self) -> bool:
        """Whether it is worth emptying, should the accepted text be all that is alive."""
        return self.seq is not None and self._num_cells * _EMPTY_FROM >= self._most_cells

    def bury(self, dead: Sequence[Node], root: Node, survivor: Node | None = None) -> list[Edit]:
        """Plan the edits for dead nodes in the tree of `root`, which died below `survivor`; see `sequences.bury`."""
        edits = bury(dead, survivor or root, self._pool)
        orders = [node.order for node in dead if node.seq is not None]
        if self.seq is None or not orders or _are_newest(min(orders), root):
            return edits
        self._num_cells += len(orders)
        kept = [Edit(EditOp.SHARE, seq, self.seq, pos, TO_END) for seq, pos in first_positions(dead)]
        return kept + edits

    def empty(self, seq: SeqId) -> list[Edit]:
        """Plan the edits that free all dead cells, when those of the text `seq` are the only other ones."""
        if self.seq is None or not self._num_cells:
            return []
        self._num_cells = 0
        freed = Edit(EditOp.DROP, self.seq, self.seq, Pos(0), TO_END)
        return [freed, Edit(EditOp.GATHER, seq, seq, Pos(0), TO_END)]


def _are_newest(order: int, root: Node) -> bool:
    """Tell whether nothing alive was launched after the `order`-th launch."""
    return all(node.order < order for node in root.subtree() if node.state is NodeState.LAUNCHED)
