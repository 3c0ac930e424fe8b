"""Weights that are rounded while they are loaded."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from mpispec.compute.base import StageSize, TorchOptions
from mpispec.compute.torch_backend import TILE, TorchBackend
from mpispec.compute.torch_stage import TorchStage, open_stage
from mpispec.models import hf_folder
from mpispec.models.errors import ModelError
from tests.stages import Pipeline, rows
from tests.torch.test_torch_stage import TEXT

pytestmark = pytest.mark.torch

INT8 = StageSize(context=256, sequences=8, threads=1, most_rows=TILE, torch=TorchOptions(quantization="int8"))


@pytest.fixture
def stages(small: Path) -> list[TorchStage]:
    """Return the small model in two parts, in int8."""
    pytest.importorskip("torchao")
    return [open_stage(small, layers, 4, INT8) for layers in (range(2), range(2, 4))]


def test_rounded_weights_compute_almost_what_whole_ones_do(stages: list[TorchStage], small: Path) -> None:
    exact = open_stage(small, range(4), 4, StageSize(context=256, sequences=8, threads=1, most_rows=TILE))
    expected, found = (Pipeline(each).run(rows(TEXT[:20])) for each in ([exact], stages))
    assert 1e-3 < np.linalg.norm(found - expected) / np.linalg.norm(expected) < 0.1


def test_rows_of_rounded_weights_are_exact(stages: list[TorchStage]) -> None:
    pipeline = Pipeline(stages)
    alone = pipeline.run_in_chunks(TEXT[:14], 1)
    assert np.array_equal(pipeline.run_in_chunks(TEXT[:14], 7), alone)


def test_weights_of_layers_take_a_quarter(stages: list[TorchStage], small: Path) -> None:
    stored = hf_folder.tensors_of(small, range(2, 4))
    matrices = sum(each.n_bytes for name, each in stored.items() if ".layers." in name and len(each.shape) == 2)
    others = sum(each.n_bytes for each in stored.values()) - matrices
    held = sum(bytes_of(weights) for weights in stages[1].weights.parameters)
    assert others + matrices / 4 < held < others + 0.27 * matrices


def bytes_of(weights: object) -> int:
    parts = [weights.qdata, weights.scale] if hasattr(weights, "qdata") else [weights]
    return sum(int(part.nbytes) for part in parts)  # type: ignore[attr-defined]


def test_without_torchao_the_remedy_is_named(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torchao" else find(name))
    with pytest.raises(ModelError, match=r"--quantization needs torchao; run: pip install 'mpispec\[torchao\]'"):
        TorchBackend().open_stage(hf_folder.inspect(small), range(2), INT8)
