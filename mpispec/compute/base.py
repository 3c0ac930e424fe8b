"""What the runtime asks of a backend.

A backend is used by one thread at a time (the rank's compute thread) and keeps the cache contract of the design:
a cell carries a position and a set of sequence ids; a row of sequence s at position p attends to the cells that
carry s at positions up to p.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mpispec.core.messages import Edit, Run
from mpispec.models.errors import ModelError

__all__ = ["Arithmetic", "Cancelled", "ComputeError", "ExitModel", "Floats", "ModelError", "StageModel"]

Floats = NDArray[np.float32]
Cancelled = Callable[[], bool]
"""Looked at between layers; once true, the forward may give up and return None."""


class ComputeError(Exception):
    """A backend could not compute; the text is one sentence that names the cause."""


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What the bits of a row depend on besides weights and inputs, as a backend declares it for one rank."""

    kernels: str = ""
    """Names the instructions that are computed with: ranks where it differs may compute other bits."""
    is_thread_exact: bool = True
    """Whether a row has the same bits with the threads that compute here as with one."""


class StageModel(Protocol):
    """A layer range of the target model."""

    def edit(self, edits: Sequence[Edit]) -> None:
        """Apply cache edits in order; GATHER is among them only where the backend's traits ask for it."""

    def forward(self, run: Run, activations: Floats | None, cancelled: Cancelled) -> Floats | None:
        """Compute a run's rows and write their cells, with all their labels; its edits are left to `edit`.

        `activations` is float32 [rows, width], or None on the first stage, which embeds the rows' tokens itself.
        Returns float32 [rows, width], on the last stage logits float32 [deciding rows, vocabulary] in row order, or
        None when given up. A forward that was given up may have written some of its cells.
        """

    def close(self) -> None:
        """Free the memory."""


class ExitModel(StageModel, Protocol):
    """A layer range that also holds the target's final norm and projection, for an early exit."""

    def forward_and_exit(
        self, run: Run, activations: Floats | None, cancelled: Cancelled
    ) -> tuple[Floats, Floats] | None:
        """Compute as `forward` does; return its output and the logits of the deciding rows after these layers."""
