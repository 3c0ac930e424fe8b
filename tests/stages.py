"""Stages of one model chained by hand in this process, of any backend: the smallest pipeline there is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mpispec.compute.base import Cancelled, Floats, StageModel
from mpispec.core.ids import NodeId, Pos, RequestId, RunId, SeqId, Token
from mpispec.core.messages import Branch, CacheOp, CacheOpKind, Row, Run

SEQUENCES = 8


def row(token: int, pos: int, seq: int = 0, decide: bool = True) -> Row:
    """Make a row of request 0."""
    return Row(RequestId(0), NodeId(pos), NodeId(pos - 1), Token(token), Pos(pos), SeqId(seq), decide)


def rows(tokens: Sequence[int], start: int = 0, seq: int = 0) -> list[Row]:
    """Make the rows of a chain from position `start` on; each decides."""
    return [row(token, start + index, seq) for index, token in enumerate(tokens)]


def share(src: int, dst: int, start: int = 0, end: int = -1) -> CacheOp:
    """Make a cache operation that adds label `dst` to the cells of `src`."""
    return CacheOp(CacheOpKind.SHARE, SeqId(src), SeqId(dst), Pos(start), end)


def drop(seq: int, start: int = 0, end: int = -1) -> CacheOp:
    """Make a cache operation that takes label `seq` from its cells."""
    return CacheOp(CacheOpKind.DROP, SeqId(seq), SeqId(0), Pos(start), end)


class Pipeline:
    """All stages of a model; rows go through one after the other. A `StageModel` itself."""

    def __init__(self, stages: Sequence[StageModel]) -> None:
        self.stages = stages

    def apply(self, cache_ops: Sequence[CacheOp]) -> None:
        """Apply cache operations on all stages."""
        for stage in self.stages:
            stage.apply(cache_ops)

    def forward(self, run: Run, activations: Floats | None, cancelled: Cancelled) -> Floats | None:
        """See `StageModel`."""
        passed = activations
        for stage in self.stages:
            passed = stage.forward(run, passed, cancelled)
            if passed is None:
                return None
        return passed

    def run(self, batch: Sequence[Row], cache_ops: Sequence[CacheOp] = (), branches: Sequence[Branch] = ()) -> Floats:
        """Return the logits of the deciding rows."""
        self.apply(cache_ops)
        logits = self.forward(Run(RunId(0), tuple(batch), branches=tuple(branches)), None, bool)
        assert logits is not None
        return logits

    def run_in_chunks(self, tokens: Sequence[int], size: int) -> Floats:
        """Forget everything, then return the logits of all tokens, fed in chunks."""
        self.clear()
        starts = range(0, len(tokens), size)
        return np.concatenate([self.run(rows(tokens[start : start + size], start)) for start in starts])

    def clear(self, num_sequences: int = SEQUENCES) -> None:
        """Forget everything."""
        self.apply([drop(seq) for seq in range(num_sequences)])

    def close(self) -> None:
        """Free the memory."""
        for stage in self.stages:
            stage.close()
