"""A stage that leaves the arithmetic out of some requests, so that all other costs can be timed alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np

from mpispec.compute.base import Cancelled, ExitModel, Floats, StageModel, StageOutput, StageRun, Together
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
        self.inner = inner
        self._model = model
        self._is_last = is_last
        self._is_skipped = is_skipped

    def forward(self, run: Run, activations: Floats | None, cancelled: Cancelled) -> Floats | None:
        """See `StageModel.forward`."""
        if not self.skips(run):
            return self.inner.forward(run, activations, cancelled)
        output = self.skipped(run, activations)
        return output.logits if self._is_last else output.hidden

    def forward_and_exit(
        self, run: Run, activations: Floats | None, cancelled: Cancelled
    ) -> tuple[Floats, Floats] | None:
        """See `ExitModel.forward_and_exit`."""
        if not self.skips(run):
            return cast(ExitModel, self.inner).forward_and_exit(run, activations, cancelled)
        return self.skipped(run, activations)

    def skips(self, run: Run) -> bool:
        """Tell whether a run is not computed."""
        return self._is_skipped(run.rows[0].request)

    def skipped(self, run: Run, activations: Floats | None) -> StageOutput:
        """Return what comes of a run that is not computed."""
        tokens = [row.token for row in run.rows if row.decide]
        logits = np.zeros((len(tokens), self._model.vocabulary), np.float32)
        logits[range(len(tokens)), tokens] = 1.0
        hidden = activations if activations is not None else np.zeros((len(run.rows), self._model.width), np.float32)
        return StageOutput(hidden, logits)


def skipping(together: Together) -> Together:
    """Return what computes runs on `Skippable` stages together, but for those that are skipped."""

    def compute(runs: Sequence[StageRun]) -> list[StageOutput | None]:
        stages = [cast(Skippable, run.stage) for run in runs]
        pairs = [*zip(stages, runs, strict=True)]
        computed = [run._replace(stage=stage.inner) for stage, run in pairs if not stage.skips(run.run)]
        outputs = iter(together(computed) if computed else ())
        return [
            stage.skipped(run.run, run.activations) if stage.skips(run.run) else next(outputs) for stage, run in pairs
        ]

    return compute
