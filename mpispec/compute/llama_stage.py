"""A layer range of a model on llama.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mpispec.compute import huge_pages
from mpispec.compute.base import Cancelled, ComputeError, Floats, StageOutput, StageSize
from mpispec.compute.llama import ContextSize, LlamaModel
from mpispec.compute.llama_traits import SPARE_CELLS
from mpispec.compute.stage_context import Batch, StageContext
from mpispec.core.ids import SeqId
from mpispec.core.messages import CacheOp, CacheOpKind, Row, Run
from mpispec.core.sequences import row_labels
from mpispec.models.errors import ModelError

EXACT_ROWS = 63
"""Up to this many rows a run's bits do not depend on how many rows it has (measured, F16 cache, flash attention, one
thread). From 64 on llama.cpp attends in tiles (`Tiling`). With several threads a run of one row that sees 512
cells or more is summed in as many pieces as there are threads, so there its last bits depend on their number."""


class LlamaStage:
    """A `StageModel` over a part made by `models.cut`, or over a whole model that is both first and last stage.

    Over a part that was cut with an exit it is an `ExitModel`.

    With several contexts each of them has cells of its own over the same weights. Rows of a run that are of different
    contexts are computed one context after the other, so that no bit of one depends on rows or cells of another
    (ADR 0036).
    """

    def __init__(self, path: Path, size: StageSize, *, first: bool, last: bool, n_layers: int) -> None:
        """Load the layers and compute one row to warm up.

        All sequences of a context share `size.context` + SPARE_CELLS cells, which llama.cpp rounds up to 256. Contexts
        beyond the first are made when a row first needs them, as their memory is. Raises ModelError.
        """
        self._model = LlamaModel(path, gpu_layers=size.gpu_layers)
        self._first, self._last = first, last
        self._size = size
        self._contexts: dict[int, StageContext] = {}
        self.context_bytes = 0
        """What a context takes of the host's memory."""
        try:
            if self._model.n_layers != n_layers:
                raise ModelError(f"{path} holds {self._model.n_layers} layers, not {n_layers}; cut it again.")
            self._contexts[0] = self._new_context()
        except BaseException:
            self.close()
            raise
        self.width = self._model.width
        self.vocabulary = self._model.n_tokens
        self._warm_up()
        huge_pages.collapse()

    def apply(self, cache_ops: Sequence[CacheOp]) -> None:
        """Apply cache operations in order. Raises ComputeError."""
        sequences = self._size.sequences
        for cache_op in cache_ops:
            number, src = divmod(cache_op.src, sequences)
            other, dst = divmod(cache_op.dst, sequences)
            is_between = cache_op.kind is CacheOpKind.SHARE and other != number
            if is_between or not (0 <= number < self._size.contexts and 0 <= other < self._size.contexts):
                raise ComputeError(
                    f"A cache operation names sequences {cache_op.src} and {cache_op.dst}, "
                    f"of {self._size.contexts} times {sequences}."
                )
            if number in self._contexts:  # else it has no cells either
                self._contexts[number].apply(cache_op._replace(src=SeqId(src), dst=SeqId(dst)))

    def forward(self, run: Run, activations: Floats | None, cancelled: Cancelled) -> Floats | None:
        """Compute a run's rows (at least one) and write their cells.

        Takes float32 [rows, width], or None on the first stage. Returns float32 [rows, width], on the last stage
        [deciding rows, vocabulary], None when given up. A row must follow the last cell of its sequence, or the rows
        before it in the run: llama.cpp takes no gaps. Raises ComputeError.
        """
        output = self._output(run, activations, cancelled)
        if output is None:
            return None
        return output.logits if self._last else output.hidden

    def forward_and_exit(
        self, run: Run, activations: Floats | None, cancelled: Cancelled
    ) -> tuple[Floats, Floats] | None:
        """See `ExitModel`."""
        return self._output(run, activations, cancelled, exits=True)

    def close(self) -> None:
        """Free weights, caches and threads."""
        for context in self._contexts.values():
            context.close()
        self._model.close()

    def _output(
        self, run: Run, activations: Floats | None, cancelled: Cancelled, exits: bool = False
    ) -> StageOutput | None:
        """Compute a run, one context after the other; None when given up, which may be between two of them."""
        found: list[tuple[Batch, StageOutput]] = []
        for number, batch in self._batches(run, activations).items():
            output = self._context(number).compute(batch, cancelled, exits)
            if output is None:
                return None
            found.append((batch, output))
        return found[0][1] if len(found) == 1 else _in_row_order(found)

    def _batches(self, run: Run, activations: Floats | None) -> dict[int, Batch]:
        """Return the rows of a run by context, after checking what llama.cpp would not survive."""
        rows, labels, sequences = run.rows, row_labels(run), self._size.sequences
        self._check(rows, labels, activations)
        indices: dict[int, list[int]] = {}
        for index, mine in enumerate(labels):
            indices.setdefault(mine[0] // sequences, []).append(index)
        if [*indices] == [0]:  # as in most runs
            return {0: Batch(indices[0], rows, labels, activations)}
        return {
            number: Batch(
                chosen,
                [rows[index] for index in chosen],
                [[SeqId(seq - number * sequences) for seq in labels[index]] for index in chosen],
                None if activations is None else activations[chosen],
            )
            for number, chosen in indices.items()
        }

    def _check(self, rows: Sequence[Row], labels: Sequence[Sequence[SeqId]], activations: Floats | None) -> None:
        n_rows, sequences = len(rows), self._size.sequences
        if not 1 <= n_rows <= self._size.most_rows:
            raise ComputeError(f"A run has {n_rows} rows; this stage takes 1 to {self._size.most_rows}.")
        for row, mine in zip(rows, labels, strict=True):
            first, last = min(mine) // sequences, max(mine) // sequences
            if first != last or not 0 <= first < self._size.contexts or row.pos < 0:
                raise ComputeError(f"A row names sequences {mine} at position {row.pos}, which no cache has.")
        tokens = [row.token for row in rows]
        if self._first:
            if min(tokens) < 0 or max(tokens) >= self.vocabulary:
                raise ComputeError(f"A row's token is outside the vocabulary of {self.vocabulary}.")
        elif activations is None or activations.shape != (n_rows, self.width):
            raise ComputeError(f"A run of {n_rows} rows came without its {n_rows} x {self.width} activations.")

    def _context(self, number: int) -> StageContext:
        """Return a context, which is made when it is first asked for. Raises ComputeError."""
        if number not in self._contexts:
            try:
                self._contexts[number] = self._new_context()
            except ModelError as error:
                raise ComputeError(str(error)) from error
        return self._contexts[number]

    def _new_context(self) -> StageContext:
        size = self._size
        held = ContextSize(
            size.context + SPARE_CELLS, size.sequences, size.most_rows, size.threads, uses_gpu=bool(size.gpu_layers)
        )
        return StageContext(self._model, held, first=self._first, last=self._last)

    def _warm_up(self) -> None:
        """Touch all weights, see whether the output of the layers can be had, and how much memory a context takes."""
        run = Run(0, (Row(0, 0, -1, 0, 0, 0, True),))  # type: ignore[arg-type]
        activations = None if self._first else np.zeros((1, self.width), np.float32)
        try:
            self.forward(run, activations, bool)
        except ComputeError as error:
            self.close()
            raise ModelError(f"{self._model.path} cannot be run as a stage: {error}") from None
        if not self._size.gpu_layers:
            self.context_bytes = self._contexts[0].num_bytes(SeqId(0))
        self._contexts[0].clear()


def _in_row_order(found: Sequence[tuple[Batch, StageOutput]]) -> StageOutput:
    """Return the outputs of batches as that of the run that they come from."""
    rows = [index for batch, _ in found for index in batch.indices]
    deciding = [index for batch, _ in found for index, row in zip(batch.indices, batch.rows, strict=True) if row.decide]
    hidden, logits = (np.concatenate(outputs) for outputs in zip(*(output for _, output in found), strict=True))
    # The last stage has no hidden states, one without an exit no logits.
    return StageOutput(
        hidden[np.argsort(rows)] if len(hidden) else hidden, logits[np.argsort(deciding)] if len(logits) else logits
    )
