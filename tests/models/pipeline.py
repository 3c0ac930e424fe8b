"""Stages of one model chained by hand in this process: the smallest pipeline there is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mpispec.compute.base import Floats, StageSize
from mpispec.compute.llama_stage import LlamaStage
from mpispec.core.ids import NodeId, Pos, RequestId, RunId, SeqId, Token
from mpispec.core.messages import Branch, CacheOp, CacheOpKind, Row, Run
from mpispec.models import cut, registry

PROMPT = (1, 4093, 198, 4898, 314, 260, 6376, 4461, 47, 2, 198, 1, 520, 9531, 198)
"""The default model's tokens of a short question."""


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
    """All stages of a model; rows go through one after the other."""

    def __init__(self, model: Path, ranges: Sequence[range], threads: int = 1, insist: bool = False) -> None:
        """Cut and load the stages."""
        n_layers = ranges[-1].stop
        size = StageSize(context=256, sequences=SEQUENCES, threads=threads, most_rows=32)
        self.stages = [
            LlamaStage(
                cut.part(model, layers, insist=insist),
                size,
                first=layers.start == 0,
                last=layers.stop == n_layers,
                n_layers=len(layers),
            )
            for layers in ranges
        ]

    def run(self, batch: Sequence[Row], cache_ops: Sequence[CacheOp] = (), branches: Sequence[Branch] = ()) -> Floats:
        """Return the logits of the deciding rows."""
        run = Run(RunId(0), tuple(batch), branches=tuple(branches))
        passed: Floats | None = None
        for stage in self.stages:
            stage.apply(cache_ops)
            passed = stage.forward(run, passed, bool)
            assert passed is not None
        assert passed is not None
        return passed

    def run_in_chunks(self, tokens: Sequence[int], size: int) -> Floats:
        """Forget everything, then return the logits of all tokens, fed in chunks."""
        self.apply(*(drop(seq) for seq in range(SEQUENCES)))
        starts = range(0, len(tokens), size)
        return np.concatenate([self.run(rows(tokens[start : start + size], start)) for start in starts])

    def apply(self, *cache_ops: CacheOp) -> None:
        """Apply cache operations on all stages."""
        for stage in self.stages:
            stage.apply(cache_ops)

    def close(self) -> None:
        """Free the memory."""
        for stage in self.stages:
            stage.close()


def split(model: Path, stages: int, threads: int = 1) -> Pipeline:
    """Make a pipeline of even stages."""
    summary = registry.inspect(model)
    return Pipeline(model, registry.ranges(summary.layers, stages, summary.unit), threads)
