"""A layer range of a model on llama.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mpispec.compute import huge_pages
from mpispec.compute.base import Cancelled, ComputeError, Floats, StageSize
from mpispec.compute.llama import ContextSize, LayerWatch, LlamaContext, LlamaModel
from mpispec.compute.llama_traits import SPARE_CELLS
from mpispec.core.messages import CacheOp, Row, Run
from mpispec.core.sequences import row_labels
from mpispec.models.errors import ModelError

BYTES_BETWEEN_LOOKS = 8 << 20
"""Weights computed between two looks at the cancel flag: about 1 ms on one core, where a look costs 15 to 40 us."""
EXACT_ROWS = 63
"""Up to this many rows a run's bits do not depend on how many rows it has (measured, F16 cache, flash attention, one
thread). From 64 on llama.cpp attends in tiles (`Tiling`). With several threads a run of one row that sees 512
cells or more is summed in as many pieces as there are threads, so there its last bits depend on their number."""


class LlamaStage:
    """A `StageModel` over a part made by `models.cut`, or over a whole model that is both first and last stage.

    Over a part that was cut with an exit it is an `ExitModel`.
    """

    def __init__(self, path: Path, size: StageSize, *, first: bool, last: bool, n_layers: int) -> None:
        """Load the layers and compute one row to warm up.

        All sequences share `size.context` + SPARE_CELLS cells, which llama.cpp rounds up to 256. Raises ModelError.
        """
        self._model = LlamaModel(path, gpu_layers=size.gpu_layers)
        try:
            if self._model.n_layers != n_layers:
                raise ModelError(f"{path} holds {self._model.n_layers} layers, not {n_layers}; cut it again.")
            every = -(-BYTES_BETWEEN_LOOKS * n_layers // max(1, self._model.n_bytes))
            self._watch = LayerWatch(n_layers, every, stop=not last)
            cells = size.context + SPARE_CELLS
            held = ContextSize(cells, size.sequences, size.most_rows, size.threads, uses_gpu=bool(size.gpu_layers))
            self._context = LlamaContext(self._model, held, not first, self._watch)
        except BaseException:
            self._model.close()
            raise
        self._first, self._last = first, last
        self.width = self._model.width
        self.vocabulary = self._model.n_tokens
        self._warm_up()
        huge_pages.collapse()

    def apply(self, cache_ops: Sequence[CacheOp]) -> None:
        """Apply cache operations in order. Raises ComputeError."""
        for cache_op in cache_ops:
            self._context.apply(cache_op)

    def forward(self, run: Run, activations: Floats | None, cancelled: Cancelled) -> Floats | None:
        """Compute a run's rows (at least one) and write their cells.

        Takes float32 [rows, width], or None on the first stage. Returns float32 [rows, width], on the last stage
        [deciding rows, vocabulary], None when given up. A row must follow the last cell of its sequence, or the rows
        before it in the run: llama.cpp takes no gaps. Raises ComputeError.
        """
        if cancelled():
            return None
        self._fill(run, activations)
        if not self._last:
            return self._layer_output(len(run.rows), cancelled, goes_on=False)
        self._watch.arm(cancelled, None)
        self._context.decode(len(run.rows))
        if self._watch.gave_up:
            return None
        deciding = sum(row.decide for row in run.rows)
        return self._context.logits(deciding, self.vocabulary) if deciding else self._no_logits()

    def forward_and_exit(
        self, run: Run, activations: Floats | None, cancelled: Cancelled
    ) -> tuple[Floats, Floats] | None:
        """See `ExitModel`. The projection is computed for all rows of a run in which any decides, else for none."""
        if cancelled():
            return None
        self._fill(run, activations)
        deciding = [index for index, row in enumerate(run.rows) if row.decide]
        output = self._layer_output(len(run.rows), cancelled, goes_on=bool(deciding))
        if output is None:
            return None
        if not deciding:
            return output, self._no_logits()
        return output, self._context.logits(len(run.rows), self.vocabulary)[deciding]

    def close(self) -> None:
        """Free weights, cache and threads."""
        self._context.close()
        self._model.close()

    def _layer_output(self, num_rows: int, cancelled: Cancelled, goes_on: bool) -> Floats | None:
        """Compute the rows of the batch; return float32 [rows, width] of the last layer, None when given up."""
        output = np.empty((num_rows, self.width), np.float32)
        self._watch.arm(cancelled, output, goes_on)
        self._context.decode(num_rows)
        if self._watch.gave_up:
            return None
        if not self._watch.copied:
            raise ComputeError("llama.cpp did not compute the output of the last layer; report this model.")
        return output

    def _fill(self, run: Run, activations: Floats | None) -> None:
        """Write a run's rows into the batch, after checking what llama.cpp would not survive."""
        rows, n_rows, context = run.rows, len(run.rows), self._context
        if not 1 <= n_rows <= context.size.max_rows:
            raise ComputeError(f"A run has {n_rows} rows; this stage takes 1 to {context.size.max_rows}.")
        labels = row_labels(run)
        for row, mine in zip(rows, labels, strict=True):
            if min(mine) < 0 or max(mine) >= context.size.sequences or row.pos < 0:
                raise ComputeError(f"A row names sequences {mine} at position {row.pos}, which do not exist.")
        context.positions[:n_rows] = [row.pos for row in rows]
        context.label(labels)
        context.outputs[:n_rows] = [row.decide for row in rows] if self._last else 1
        if self._first:
            self._fill_tokens(rows)
        elif activations is None or activations.shape != (n_rows, self.width):
            raise ComputeError(f"A run of {n_rows} rows came without its {n_rows} x {self.width} activations.")
        else:
            context.activations[:n_rows] = activations

    def _fill_tokens(self, rows: Sequence[Row]) -> None:
        tokens = [row.token for row in rows]
        if min(tokens) < 0 or max(tokens) >= self.vocabulary:
            raise ComputeError(f"A row's token is outside the vocabulary of {self.vocabulary}.")
        self._context.tokens[: len(tokens)] = tokens

    def _no_logits(self) -> Floats:
        return np.empty((0, self.vocabulary), np.float32)

    def _warm_up(self) -> None:
        """Touch all weights, and find out whether the layer output can be read, before any request waits for it."""
        run = Run(0, (Row(0, 0, -1, 0, 0, 0, True),))  # type: ignore[arg-type]
        activations = None if self._first else np.zeros((1, self.width), np.float32)
        try:
            self.forward(run, activations, bool)
        except ComputeError as error:
            self.close()
            raise ModelError(f"{self._model.path} cannot be run as a stage: {error}") from None
        self._context.clear()
