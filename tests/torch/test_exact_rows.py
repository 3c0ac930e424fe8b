"""Rows of float32 on a CPU: matrices laid out for them, and what is done where a row's bits depend on others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from mpispec.compute import torch_linear, torch_weights
from mpispec.compute.base import StageSize
from mpispec.compute.torch_backend import TILE
from mpispec.compute.torch_linear import Packed, pack
from mpispec.compute.torch_stage import open_stage
from tests.stages import Pipeline, rows
from tests.torch.conftest import HEADS, TINY
from tests.torch.test_torch_stage import LAYERS, TEXT, whole

pytestmark = pytest.mark.torch

SIZE = StageSize(context=256, sequences=8, threads=1, most_rows=TILE)
CLOSE = 1e-5


class Attention(torch.nn.Module):
    """Matrices under the names that transformers gives them."""

    def __init__(self, **biases: bool) -> None:
        super().__init__()
        for index, name in enumerate(("q_proj", "k_proj", "v_proj", "o_proj")):
            self.add_module(name, torch.nn.Linear(32, 16 * (index + 1), bias=biases.get(name, False)))

    def forward(self, given: torch.Tensor) -> list[torch.Tensor]:
        return [child(given) for child in self.children()]


@pytest.mark.parametrize(
    ("biases", "num_calls"),
    [({}, 2), ({"q_proj": True, "k_proj": True, "v_proj": True}, 2), ({"q_proj": True, "o_proj": True}, 4)],
)
@torch.inference_mode()
def test_matrices_that_multiply_the_same_rows_are_one_product(
    biases: dict[str, bool], num_calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    module, calls = Attention(**biases), []
    multiply = torch_linear._multiply
    monkeypatch.setattr(torch_linear, "_multiply", lambda *args: calls.append(args) or multiply(*args))
    texts = [torch.randn(1, size, 32) for size in (1, 3, 8)]
    expected = [module(text) for text in texts]
    assert pack(module)
    assert all(type(child) is Packed for child in module.children())
    for text, outputs in zip(texts, expected, strict=True):
        for found, output in zip(module(text), outputs, strict=True):
            torch.testing.assert_close(found, output, rtol=0, atol=CLOSE)
    assert len(calls) == num_calls * len(texts)


def test_what_is_no_plain_matrix_is_left_alone() -> None:
    class Router(torch.nn.Linear): ...

    module = torch.nn.ModuleDict({"router": Router(4, 4), "norm": torch.nn.LayerNorm(4)})
    assert not pack(module)
    assert type(module["router"]) is Router


def product(of_rows: Any) -> Any:
    """Return a product of matrices in which each number also depends on what `of_rows` says of the rows."""
    multiply = torch_linear._multiply
    return lambda given, *others: multiply(given, *others) * (1 + 1e-3 * of_rows(given))


@pytest.mark.parametrize(
    ("of_rows", "fewest"),
    [
        (lambda given: 0, torch_weights._FEWEST),
        (lambda given: given.shape[1], torch_weights._ROWS),
        (lambda given: float(given.shape[1] == 7), torch_weights._ROWS),
    ],
)
def test_where_the_number_of_rows_moves_bits_they_go_eight_at_a_time(
    of_rows: Any, fewest: int, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first case is what this CPU does; should it fail on yours, rows cost more there and nothing else changes."""
    monkeypatch.setattr(torch_linear, "_multiply", product(of_rows))
    pipeline = Pipeline([open_stage(tiny, layers, LAYERS, SIZE) for layers in (range(2), range(2, LAYERS))])
    assert [stage.weights._fewest for stage in pipeline.stages] == [fewest, fewest]
    alone = pipeline.run_in_chunks(TEXT[:21], 1)
    for size in (2, 7, 8, 21):
        pipeline.clear(SIZE.sequences)
        assert np.array_equal(pipeline.run_in_chunks(TEXT[:21], size), alone)


def test_layers_are_tried_once_for_each_kind(tiny: Path) -> None:
    stage = open_stage(tiny, range(LAYERS), LAYERS, SIZE)
    kept = [*torch_weights._distinct(stage.weights._model.base_model.layers)]
    assert [type(layer) is torch_weights.Skipped for layer in kept] == [False, *[True] * (LAYERS - 1)]


def tied(folder: Path) -> Path:
    """Write a model whose LM head has the numbers of the embedding."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**TINY, **HEADS, initializer_range=0.2, tie_word_embeddings=True)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_an_embedding_that_is_the_lm_head_too_is_held_once(tmp_path: Path) -> None:
    folder = tied(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    expected = sum(weights.numel() for weights in model.parameters())
    one = open_stage(folder, range(LAYERS), LAYERS, SIZE)
    assert one.num_weights == expected
    parts = [open_stage(folder, layers, LAYERS, replace(SIZE, threads=2)) for layers in (range(1), range(1, LAYERS))]
    assert sum(part.num_weights for part in parts) == expected + model.get_input_embeddings().weight.numel()
    found = [Pipeline(stages).run(rows(TEXT[:20])) for stages in ([one], parts)]
    assert all(np.allclose(each, whole(folder, TEXT[:20]), atol=1e-4) for each in found)
