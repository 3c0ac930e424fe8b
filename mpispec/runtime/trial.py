"""Runs that try a stage before the first request."""

from __future__ import annotations

import time
from typing import NamedTuple

from mpispec.compute.base import Floats, StageModel
from mpispec.core.ids import NodeId, Pos, RequestId, RunId, SeqId, Token
from mpispec.core.messages import Edit, EditOp, Row, Run


class Trial(NamedTuple):
    """What a run came to."""

    output: Floats
    seconds: float


def trial(stage: StageModel, size: int, activations: Floats | None, past: int = 0, is_kept: bool = False) -> Trial:
    """Compute a run of `size` deciding rows that follow `past` cached positions of sequence 0.

    Its cells are dropped unless it `is_kept`. `activations` is float32 [size, width], None on the first stage.
    """
    positions = range(past, past + size)
    rows = (Row(RequestId(0), NodeId(pos), NodeId(pos - 1), Token(0), Pos(pos), SeqId(0), True) for pos in positions)
    run = Run(RunId(0), tuple(rows))
    start = time.monotonic()
    output = stage.forward(run, activations, bool)
    elapsed = time.monotonic() - start
    assert output is not None, "nobody cancels a trial"
    if not is_kept:
        stage.edit([Edit(EditOp.DROP, SeqId(0), SeqId(0), Pos(past), -1)])
    return Trial(output, elapsed)
