"""Whether a row's bits depend on how many rows its run has, asked of the kernels themselves (law 6, ADR 0024).

That differs with the format of the weights, the processor and the build of llama.cpp: its kernels for several rows may
sum in another order than those for one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mpispec.compute.base import StageModel
from mpispec.core.ids import Actor
from mpispec.runtime.group import Group, merged
from mpispec.runtime.trial import trial

_SIZES = (1, 2, 4, 8)
"""Rows of the runs compared: kernels for several rows take them by two, four or eight."""


def are_rows_exact(group: Group, stages: Mapping[Actor, StageModel], first: Actor, width: int) -> bool:
    """Return whether a row has the same bits in runs of any size below a tile, on the stages of all ranks. Collective.

    `stages` are those of this rank, `first` is the one that takes tokens instead of activations of `width` numbers.
    """
    mine = {actor: _is_exact(stage, actor == first, width) for actor, stage in stages.items()}
    return all(merged(group, mine).values())


def _is_exact(stage: StageModel, is_first: bool, width: int) -> bool:
    """Compare the first row, which attends to itself alone: below a tile attention goes row by row (ADR 0021)."""
    noise = np.random.default_rng(0).standard_normal((_SIZES[-1], width), np.float32)
    rows = [trial(stage, size, None if is_first else noise[:size]).output[0] for size in _SIZES]
    return all(np.array_equal(row, rows[0]) for row in rows)
