"""Layers that llama.cpp is asked to keep on a GPU: what it is told, and that nothing changes where it has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpispec.bench import stage as bench_stage
from mpispec.compute.base import StageSize
from mpispec.compute.factory import backend_of
from mpispec.compute.llama import api
from mpispec.compute.llama_backend import finds_gpu
from mpispec.core.messages import Run
from mpispec.models.errors import ModelError
from tests.stages import rows

pytestmark = pytest.mark.models


def test_llama_cpp_is_told_how_many_layers_go_to_the_gpu(
    default_model: Path, part_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, begin = api.llama_model_load_from_file, api.llama_init_from_model
    told: list[Any] = []

    def note_layers(path: bytes, params: Any) -> Any:
        told.append(params.n_gpu_layers)
        return load(path, params)

    def note_cells(model: Any, params: Any) -> Any:
        told.append((params.offload_kqv, params.op_offload))
        return begin(model, params)

    monkeypatch.setattr(api, "llama_model_load_from_file", note_layers)
    monkeypatch.setattr(api, "llama_init_from_model", note_cells)
    backend = backend_of(default_model)
    summary, outputs = backend.inspect(default_model), []
    for gpu_layers in (0, -1, 1):
        size = StageSize(context=64, sequences=1, threads=1, most_rows=8, gpu_layers=gpu_layers)
        stage = backend.open_stage(summary, range(2), size)
        outputs.append(stage.forward(Run(0, rows([1, 2, 3])), None, bool))
        stage.close()
        assert ("on a GPU" in backend.arithmetic(size).kernels) is bool(gpu_layers)
    assert told == [0, (False, False), -1, (True, True), 1, (True, True)]
    if not finds_gpu():
        assert all(np.array_equal(output, outputs[0]) for output in outputs)


def test_a_benchmark_of_layers_keeps_them_on_the_gpu_too(
    default_model: Path, part_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, told = api.llama_model_load_from_file, []

    def note_layers(path: bytes, params: Any) -> Any:
        told.append(params.n_gpu_layers)
        return load(path, params)

    monkeypatch.setattr(api, "llama_model_load_from_file", note_layers)
    summary = backend_of(default_model).inspect(default_model)
    asked = bench_stage.Load((1,), 0, 3, 1, gpu_layers=1)
    monkeypatch.setattr(bench_stage, "finds_gpu", lambda: True)
    bench_stage.measure(summary, range(2, 4), asked, insist=False)
    assert told == [1]
    monkeypatch.setattr(bench_stage, "finds_gpu", lambda: False)
    with pytest.raises(ModelError, match="finds no GPU here; build it for GPUs"):
        bench_stage.measure(summary, range(2, 4), asked, insist=False)
    assert told == [1]
