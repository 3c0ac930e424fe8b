"""Assigning sequence ids and planning the cache operations that keep all stages equal (design, Token trees).

The first child dispatched after a node inherits its id, a further child gets a fresh one that shares the ancestors'
cells. When nodes die their ids are dropped; the winner simply stays. A chain therefore only ever truncates, which
keeps the order of cells, on which a backend's bits may depend (`FreePolicy`).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from mpispec.core.ids import Pos, SeqId
from mpispec.core.messages import Branch, CacheOp, CacheOpKind, Run
from mpispec.core.tree import Node, NodeState

TO_END = -1


class SequencePool:
    """Ids `first` .. first+size-1, lowest free id first, so that equal histories give equal ids."""

    def __init__(self, size: int, first: int = 0) -> None:
        self._free = list(range(first, first + size))
        self._is_free = [True] * size
        self._first = first
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
        self._is_free[seq - self._first] = False
        return SeqId(seq)

    def release(self, seq: SeqId) -> None:
        """Give an id back."""
        assert not self._is_free[seq - self._first], f"sequence {seq} released twice"
        self._is_free[seq - self._first] = True
        heapq.heappush(self._free, seq)


class Placed(NamedTuple):
    """Nodes that got a sequence id, and what a run that carries them must say of it."""

    nodes: list[Node]
    cache_ops: list[CacheOp]
    branches: list[Branch]


def place(nodes: Sequence[Node], take: Callable[[], SeqId | None]) -> Placed:
    """Assign sequence ids to the nodes of a run about to be dispatched, parents first; stop where `take` has no id.

    A root keeps the id of the accepted text. A share copies labels of cells that exist when the run arrives; the
    ancestors that come with the run itself get theirs by a branch.
    """
    placed = Placed([], [], [])
    for node in nodes:
        parent = node.parent
        if parent is not None and inherits(node):
            node.seq = parent.seq
        elif parent is not None:
            seq = take()
            if seq is None:
                break
            assert parent.seq is not None
            node.seq = seq
            start = _first_undispatched(node)
            placed.cache_ops.append(CacheOp(CacheOpKind.SHARE, parent.seq, seq, Pos(0), start))
            if start < node.pos:
                placed.branches.append(Branch(parent.seq, seq, start, node.pos))
        placed.nodes.append(node)
    return placed


def inherits(node: Node) -> bool:
    """Tell whether a node needs no id of its own, its parent's not being a sibling's."""
    parent = node.parent
    return parent is not None and parent.seq not in [sibling.seq for sibling in parent.children]


def row_labels(run: Run) -> list[list[SeqId]]:
    """Return the sequence ids that each row of a run carries, its own first."""
    labels = [[row.seq] for row in run.rows]
    for src, dst, start, end in run.branches:
        for row, mine in zip(run.rows, labels, strict=True):
            if start <= row.pos < end and src in mine:
                mine.append(dst)
    return labels


def _first_undispatched(node: Node) -> Pos:
    """Return the position of the highest node above `node`, or itself, that comes with the same run."""
    while node.parent is not None and node.parent.state is NodeState.PENDING:
        node = node.parent
    return node.pos


def first_positions(dead: Iterable[Node]) -> list[tuple[SeqId, Pos]]:
    """Return the ids of nodes, in order, each with the first position where one of them has it."""
    first: dict[SeqId, Pos] = {}
    for node in dead:
        if node.seq is not None:
            first[node.seq] = min(first.get(node.seq, node.pos), node.pos)
    return sorted(first.items())


def drop_dead(dead: Iterable[Node], root: Node, pool: SequencePool) -> list[CacheOp]:
    """Plan the cache operations that free the cells of dead nodes, and give their ids back.

    `root` is the survivor: the new root, or the living node below which they died. Its own id, where a dead node
    inherited it, is truncated at the first dead position; any other was taken among the dead and is dropped whole.
    """
    cache_ops = []
    for seq, pos in first_positions(dead):
        if seq == root.seq:
            cache_ops.append(CacheOp(CacheOpKind.DROP, seq, seq, pos, TO_END))
        else:
            cache_ops.append(CacheOp(CacheOpKind.DROP, seq, seq, Pos(0), TO_END))
            pool.release(seq)
    return cache_ops
