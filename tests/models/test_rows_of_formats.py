"""What is found out about rows at the start is true of llama.cpp as scripts/setup builds it (ADR 0024)."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from mpispec.compute.base import Arithmetic, StageSize
from mpispec.compute.llama_stage import EXACT_ROWS, LlamaStage
from mpispec.core.ids import Actor
from mpispec.core.messages import Run
from mpispec.runtime.group import Group
from mpispec.runtime.trial import are_rows_exact
from mpispec.transport.loopback import LoopbackTransport
from tests.models import tiny
from tests.stages import drop, rows

pytestmark = pytest.mark.models

LAYERS = 3
Kind = gguf.GGMLQuantizationType
KINDS = [Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1]


def load(model: Path) -> LlamaStage:
    """Load a whole model."""
    size = StageSize(context=128, sequences=1, threads=1, most_rows=EXACT_ROWS)
    return LlamaStage(model, size, first=True, last=True, n_layers=LAYERS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_rows_keep_their_bits_in_runs_of_any_size(kind: Kind, tmp_path: Path) -> None:
    stage = load(tiny.llama(tmp_path / "tiny.gguf", LAYERS, quantisation=kind))
    assert are_rows_exact(Group(LoopbackTransport()), {Actor(1): stage}, Actor(1), tiny.WIDTH, {Actor(1): Arithmetic()})
    tokens = [7 * index % tiny.VOCABULARY for index in range(EXACT_ROWS)]
    alone = [stage.forward(Run(0, rows([token], pos)), None, bool) for pos, token in enumerate(tokens)]
    for size in (2, 3, 5, 8, 32, EXACT_ROWS):
        stage.apply([drop(0)])
        starts = range(0, len(tokens), size)
        found = [stage.forward(Run(0, rows(tokens[start : start + size], start)), None, bool) for start in starts]
        assert np.array_equal(np.concatenate(found), np.concatenate(alone)), f"{size} rows"
    stage.close()
