"""One context of a stage on llama.cpp: cells, and what is computed over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mpispec.compute.base import Cancelled, ComputeError, Floats, StageOutput
from mpispec.compute.llama import ContextSize, LayerWatch, LlamaContext, LlamaModel
from mpispec.core.ids import SeqId
from mpispec.core.messages import CacheOp, Row

BYTES_BETWEEN_LOOKS = 8 << 20
"""Weights computed between two looks at the cancel flag: about 1 ms on one core, where a look costs 15 to 40 us."""
MANY_ROWS = 16
"""From so many rows on half a layer takes long enough for a look; not on a GPU, which each look waits for."""


class Batch(NamedTuple):
    """Rows of a run that one context computes at once."""

    indices: Sequence[int]
    """Which rows of the run they are."""
    rows: Sequence[Row]
    labels: Sequence[Sequence[SeqId]]
    """The sequence ids of each row, its own first, counted from the context's first."""
    activations: Floats | None
    """float32 [rows, width]; None on the first stage."""


class StageContext:
    """Computes rows over the weights of a stage, which other contexts may share."""

    def __init__(self, model: LlamaModel, size: ContextSize, *, first: bool, last: bool) -> None:
        """Allocate the cells. Raises ModelError."""
        every = -(-BYTES_BETWEEN_LOOKS * model.n_layers // max(1, model.n_bytes))
        self._watch = LayerWatch(model.n_layers, every, stop=not last)
        self._context = LlamaContext(model, size, not first, self._watch)
        self._first, self._last = first, last
        self._width, self._vocabulary = model.width, model.n_tokens

    def apply(self, cache_op: CacheOp) -> None:
        """Apply a cache operation. Raises ComputeError."""
        self._context.apply(cache_op)

    def compute(self, batch: Batch, cancelled: Cancelled, exits: bool = False) -> StageOutput | None:
        """Compute rows and write their cells; None when given up. Raises ComputeError.

        The last stage returns no hidden states, the others no logits unless the context `exits`: then norm and
        projection are computed for all rows of a batch in which any decides, else for none.
        """
        if cancelled():
            return None
        self._fill(batch)
        deciding = [index for index, row in enumerate(batch.rows) if row.decide]
        output = np.empty((0 if self._last else len(batch.rows), self._width), np.float32)
        often = len(batch.rows) >= MANY_ROWS and not self._context.size.uses_gpu
        self._watch.arm(cancelled, None if self._last else output, exits and bool(deciding), often)
        self._context.decode(len(batch.rows))
        if self._watch.gave_up:
            return None
        if not self._last and not self._watch.copied:
            raise ComputeError("llama.cpp did not compute the output of the last layer; report this model.")
        if not deciding or not (self._last or exits):
            return StageOutput(output, np.empty((0, self._vocabulary), np.float32))
        if self._last:
            return StageOutput(output, self._context.logits(len(deciding), self._vocabulary))
        return StageOutput(output, self._context.logits(len(batch.rows), self._vocabulary)[deciding])

    def num_bytes(self, seq: SeqId) -> int:
        """Return about how many bytes all cells take, from a sequence that has one of them."""
        return self._context.size.cells * self._context.state_size(seq)

    def clear(self) -> None:
        """Free all cells."""
        self._context.clear()

    def close(self) -> None:
        """Free cells and buffers."""
        self._context.close()

    def _fill(self, batch: Batch) -> None:
        """Write rows into llama.cpp's batch."""
        rows, n_rows, context = batch.rows, len(batch.rows), self._context
        context.positions[:n_rows] = [row.pos for row in rows]
        context.label(batch.labels)
        context.outputs[:n_rows] = [row.decide for row in rows] if self._last else 1
        if self._first:
            context.tokens[:n_rows] = [row.token for row in rows]
        else:
            context.activations[:n_rows] = batch.activations
