"""Which cells of a torch stage hold what: the cache contract of `compute/base.py` on numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mpispec.compute.base import ComputeError
from mpispec.core.messages import CacheOp, CacheOpKind, Run
from mpispec.core.sequences import row_labels

Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Cells:
    """A position and a set of sequence ids for each cell; keys and values lie elsewhere, under the same index."""

    def __init__(self, num_cells: int, num_sequences: int) -> None:
        self._pos = np.zeros(num_cells, np.int64)
        self._labels = np.zeros((num_cells, num_sequences), np.bool_)
        self._is_free: Mask = np.ones(num_cells, np.bool_)

    @property
    def num_used(self) -> int:
        """Cells that carry a label."""
        return int(np.count_nonzero(~self._is_free))

    def apply(self, cache_op: CacheOp) -> None:
        """Apply one cache operation. Raises ComputeError."""
        num_sequences = self._labels.shape[1]
        if not (0 <= cache_op.src < num_sequences and 0 <= cache_op.dst < num_sequences):
            named = max(cache_op.src, cache_op.dst)
            raise ComputeError(f"A cache operation names sequence {named} of {num_sequences}.")
        end = cache_op.end if cache_op.end >= 0 else np.iinfo(np.int64).max
        chosen = self._labels[:, cache_op.src] & (self._pos >= cache_op.start) & (self._pos < end)
        if cache_op.kind is CacheOpKind.SHARE:
            self._labels[chosen, cache_op.dst] = True
        elif cache_op.kind is CacheOpKind.DROP:
            self._labels[chosen, cache_op.src] = False
            np.logical_not(self._labels.any(axis=1), out=self._is_free)
        # GATHER changes nothing here: rows attend in the order of positions, wherever their cells lie.

    def place(self, run: Run) -> Indices:
        """Give each row of a run a cell, the first free ones; return them. Raises ComputeError where none is left."""
        rows = run.rows
        cells = np.flatnonzero(self._is_free)[: len(rows)]
        if len(cells) < len(rows):
            raise ComputeError(f"The cache of {len(self._pos)} cells is full; use a smaller --ctx or fewer requests.")
        self._pos[cells] = [row.pos for row in rows]
        for cell, labels in zip(cells, row_labels(run), strict=True):
            self._labels[cell, labels] = True
        self._is_free[cells] = False
        return cells

    def visible(self, run: Run) -> Mask:
        """Return, bool [rows, cells], which cells each row attends to. Raises ComputeError where a path has gaps."""
        seqs, last = [row.seq for row in run.rows], np.array([row.pos for row in run.rows])
        mask: Mask = self._labels[:, seqs].T & (self._pos <= last[:, None])
        if not np.array_equal(np.count_nonzero(mask, axis=1), last + 1):
            raise ComputeError("A row does not see exactly one cell for each position before it; report this.")
        return mask

    def paths(self, run: Run, length: int) -> Indices:
        """Return, int64 [rows, length], the cell of each position that a row attends to; cell 0 beyond them."""
        rows, cells = np.nonzero(self.visible(run))
        found = np.zeros((len(run.rows), length), np.int64)
        found[rows, self._pos[cells]] = cells
        return found


def padded(values: Sequence[int], length: int) -> Indices:
    """Return int64 [length]: the values, then the last of them again."""
    return np.array([*values, *[values[-1]] * (length - len(values))], np.int64)
