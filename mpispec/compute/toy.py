"""A model whose arithmetic shows every stale, missing or misplaced cell, and costs next to nothing.

A row's value is a hash of its input and of the values of all cells it attends to, so any fault of the cache or of the
order of messages changes the tokens that come out; with `in_order` an order of cells other than that of positions does
so too, as it changes the bits of a sum. Dropped cells stay where they were, as in a real cache, but
overwritten with `POISON`, this arithmetic's NaN: no row may see it, so a stale read cannot stay hidden. Used by the
simulator and wherever MPI is tested or timed without weights.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

import numpy as np

from mpispec.compute.base import Cancelled, ComputeError, Floats
from mpispec.core.ids import SeqId
from mpispec.core.messages import CacheOp, CacheOpKind, Run
from mpispec.core.sequences import row_labels
from mpispec.core.traits import BackendTraits

TRAITS = BackendTraits()
"""Integers have the same bits in any run and order; with `in_order` it stands for a backend that declares others."""
POISON = 0xDEAD_BEEF_DEAD_BEEF
_WORD = 0xFFFF_FFFF_FFFF_FFFF
WIDTH = 4
"""Floats a row: a 64-bit value as four 16-bit integers, which float32 holds exactly."""


def mixed(value: int) -> int:
    """Finalise a 64-bit word (splitmix64)."""
    value = (value + 0x9E3779B97F4A7C15) & _WORD
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _WORD
    return value ^ (value >> 31)


class _Cell:
    __slots__ = ("labels", "pos", "value")

    def __init__(self, pos: int, labels: Iterable[int], value: int) -> None:
        self.pos = pos
        self.labels = set(labels)
        self.value = value


class ToyLayer:
    """Cells and arithmetic of one stage, on plain integers."""

    def __init__(self, layer: int, cells: int = 1 << 20, in_order: bool = False) -> None:
        self._key = mixed(layer + 1)
        self._cells: list[_Cell] = []
        self._free: list[int] = []
        """Heap of dropped cells, poisoned until a row takes their place: the first of them."""
        self._limit = cells
        self._in_order = in_order

    @property
    def num_cells(self) -> int:
        """Cells in use."""
        return len(self._cells) - len(self._free)

    def apply(self, cache_ops: Sequence[CacheOp]) -> None:
        """Apply cache operations in order."""
        for cache_op in cache_ops:
            if cache_op.kind is CacheOpKind.SHARE:
                for index in self._labelled(cache_op):
                    self._cells[index].labels.add(cache_op.dst)
            elif cache_op.kind is CacheOpKind.DROP:
                self._drop(cache_op)
            else:
                kept = sorted((self._cells[index] for index in self._labelled(cache_op)), key=lambda cell: cell.pos)
                values = [(cell.pos, cell.value) for cell in kept]
                self._drop(cache_op)
                for pos, value in values:
                    self._write(pos, (cache_op.src,), value)

    def _drop(self, cache_op: CacheOp) -> None:
        for index in self._labelled(cache_op):
            cell = self._cells[index]
            cell.labels.discard(cache_op.src)
            if not cell.labels:
                cell.value = POISON
                heapq.heappush(self._free, index)

    def compute(self, pos: int, labels: Sequence[int], value: int) -> int:
        """Write a cell and return the row's output; ComputeError if the path to it has holes, doubles or poison.

        A row of several sequences sees the same path under each label.
        """
        seen = self._seen(pos, labels[0])
        if POISON in seen:
            raise ComputeError(f"position {pos} of sequence {labels[0]} sees a cell that was dropped")
        if any(self._seen(pos, other) != seen for other in labels[1:]):
            raise ComputeError(f"position {pos} sees another path under each of the sequences {labels}")
        if self.num_cells >= self._limit:
            raise ComputeError(f"the toy cache of {self._limit} cells is full")
        digest = cell = mixed(value ^ self._key)
        self._write(pos, labels, cell)
        for before in seen:
            digest = mixed(digest ^ before)
        return digest

    def _seen(self, pos: int, seq: int) -> list[int]:
        """Return the values that a row attends to, in the order of positions or of cells."""
        mine = [cell for cell in self._cells if seq in cell.labels]
        values = {cell.pos: cell.value for cell in mine if cell.pos < pos}
        if len(values) != pos or len(mine) != pos:
            raise ComputeError(f"position {pos} of sequence {seq} sees {len(mine)} cells at {len(values)} positions")
        return [cell.value for cell in mine] if self._in_order else [values[before] for before in range(pos)]

    def _write(self, pos: int, labels: Iterable[int], value: int) -> None:
        if not self._free:
            self._cells.append(_Cell(pos, labels, value))
            return
        cell = self._cells[heapq.heappop(self._free)]
        cell.pos, cell.value = pos, value
        cell.labels.update(labels)

    def _labelled(self, cache_op: CacheOp) -> list[int]:
        end = cache_op.end if cache_op.end >= 0 else _WORD
        cells = enumerate(self._cells)
        return [index for index, cell in cells if cache_op.src in cell.labels and cache_op.start <= cell.pos < end]


class ToyContexts:
    """One `ToyLayer` for each of several contexts, whose sequence ids follow one another, `sequences` a context."""

    def __init__(self, layer: int, contexts: int, sequences: int, in_order: bool = False) -> None:
        self._layers = [ToyLayer(layer, in_order=in_order) for _ in range(contexts)]
        self._sequences = sequences

    def apply(self, cache_ops: Sequence[CacheOp]) -> None:
        """See `ToyLayer`."""
        for cache_op in cache_ops:
            context, src = divmod(cache_op.src, self._sequences)
            local = cache_op._replace(src=SeqId(src), dst=SeqId(cache_op.dst % self._sequences))
            self._layers[context].apply([local])

    def compute(self, pos: int, labels: Sequence[int], value: int) -> int:
        """See `ToyLayer`."""
        context = labels[0] // self._sequences
        return self._layers[context].compute(pos, [label - context * self._sequences for label in labels], value)


def reference(prompt: Sequence[int], count: int, num_layers: int, vocabulary: int) -> list[int]:
    """Return the `count` tokens that a toy of `num_layers` stages writes after `prompt`, without any pipeline."""
    layers = [ToyLayer(layer) for layer in range(num_layers)]
    tokens = list(prompt)
    while len(tokens) < len(prompt) + count:
        for pos in range(layers[0].num_cells, len(tokens)):
            value = tokens[pos]
            for layer in layers:
                value = layer.compute(pos, (0,), value)
        tokens.append(value % vocabulary)
    return tokens[len(prompt) :]


class ToyStage:
    """A `StageModel` of a toy layer."""

    def __init__(
        self,
        layer: int,
        is_last: bool,
        vocabulary: int,
        in_order: bool = False,
        contexts: int = 1,
        sequences: int = 1 << 20,
    ) -> None:
        """Requests have cells of their own in `contexts` contexts, of `sequences` sequence ids each."""
        self._layer = ToyContexts(layer, contexts, sequences, in_order)
        self._is_last = is_last
        self._vocabulary = vocabulary

    def apply(self, cache_ops: Sequence[CacheOp]) -> None:
        """Apply cache operations in order."""
        self._layer.apply(cache_ops)

    def forward(self, run: Run, activations: Floats | None, cancelled: Cancelled) -> Floats | None:
        """See `StageModel.forward`; the width is `WIDTH`."""
        outputs = []
        for index, (row, labels) in enumerate(zip(run.rows, row_labels(run), strict=True)):
            if cancelled():
                return None
            value = row.token if activations is None else _word(activations[index])
            outputs.append(self._layer.compute(row.pos, labels, value))
        if not self._is_last:
            return np.array([_halves(value) for value in outputs], dtype=np.float32)
        decided = [value for row, value in zip(run.rows, outputs, strict=True) if row.decide]
        logits = np.zeros((len(decided), self._vocabulary), dtype=np.float32)
        logits[range(len(decided)), [value % self._vocabulary for value in decided]] = 1.0
        return logits

    def close(self) -> None:
        """Nothing to free."""


def _halves(value: int) -> list[int]:
    return [(value >> shift) & 0xFFFF for shift in (0, 16, 32, 48)]


def _word(halves: Floats) -> int:
    return sum(int(half) << shift for half, shift in zip(halves.tolist(), (0, 16, 32, 48), strict=True))
