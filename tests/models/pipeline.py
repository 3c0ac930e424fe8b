"""Pipelines of llama.cpp's stages, and a prompt for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mpispec.compute.base import StageSize
from mpispec.compute.llama_stage import LlamaStage
from mpispec.models import cut, registry
from tests.stages import SEQUENCES, Pipeline

PROMPT = (1, 4093, 198, 4898, 314, 260, 6376, 4461, 47, 2, 198, 1, 520, 9531, 198)
"""The default model's tokens of a short question."""


def opened(model: Path, ranges: Sequence[range], threads: int = 1, insist: bool = False) -> Pipeline:
    """Cut and load the stages."""
    n_layers = ranges[-1].stop
    size = StageSize(context=256, sequences=SEQUENCES, threads=threads, most_rows=32)
    return Pipeline(
        [
            LlamaStage(
                cut.part(model, layers, insist=insist),
                size,
                first=layers.start == 0,
                last=layers.stop == n_layers,
                n_layers=len(layers),
            )
            for layers in ranges
        ]
    )


def split(model: Path, stages: int, threads: int = 1) -> Pipeline:
    """Make a pipeline of even stages."""
    summary = registry.inspect(model)
    return opened(model, registry.ranges(summary.layers, stages, summary.unit), threads)
