"""A stage that leaves the arithmetic out of some requests, so that all other costs can be timed alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np

from mpispec.compute.base import Cancelled, ExitModel, Floats, StageModel
from mpispec.core.ids import RequestId
from mpispec.core.messages import CacheOp, Run
from mpispec.models.registry import ModelSummary


class Skippable:
    """A `StageModel` around another, an `ExitModel` around one; rows of skipped requests it passes on as they are.

    Where logits are asked for, each row then decides the token that it has.
    """

    def __init__(
        self, inner: StageModel, model: ModelSummary, is_last: bool, is_skipped: Callable[[RequestId], bool]
    ) -> None:
        self.apply: Callable[[Sequence[CacheOp]], None] = inner.apply
        self.close = inner.close
        self._inner = inner
        self._model = model
        self._is_last = is_last
        self._is_skipped = is_skipped

    def forward(self, run: Run, activations: Floats | None, cancelled: Cancelled) -> Floats | None:
        """See `StageModel.forward`."""
        if not self._is_skipped(run.rows[0].request):
            return self._inner.forward(run, activations, cancelled)
        return self._logits(run) if self._is_last else self._passed(run, activations)

    def forward_and_exit(
        self, run: Run, activations: Floats | None, cancelled: Cancelled
    ) -> tuple[Floats, Floats] | None:
        """See `ExitModel.forward_and_exit`."""
        if not self._is_skipped(run.rows[0].request):
            return cast(ExitModel, self._inner).forward_and_exit(run, activations, cancelled)
        return self._passed(run, activations), self._logits(run)

    def _passed(self, run: Run, activations: Floats | None) -> Floats:
        return activations if activations is not None else np.zeros((len(run.rows), self._model.width), np.float32)

    def _logits(self, run: Run) -> Floats:
        tokens = [row.token for row in run.rows if row.decide]
        logits = np.zeros((len(tokens), self._model.vocabulary), np.float32)
        logits[range(len(tokens)), tokens] = 1.0
        return logits
