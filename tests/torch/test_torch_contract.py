"""torch keeps the contract of a stage: to the bit in float32 with any threads, and nearly in bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mpispec.compute import llama_traits
from mpispec.compute.base import StageModel, TorchOptions
from mpispec.compute.torch_backend import Tiles
from mpispec.compute.torch_stage import open_stage
from mpispec.core.traits import BackendTraits
from tests.stage_contract import CHECKS, OWN_CELLS, REFUSALS, SIZE, Leaving, Subject
from tests.torch.conftest import TINY

pytestmark = pytest.mark.torch

LAYERS, VOCABULARY = TINY["num_hidden_layers"], TINY["vocab_size"]
PLAIN = BackendTraits(prefill=Tiles())
KINDS = {
    "float32": (SIZE, PLAIN, 0.0, 6),
    "two threads": (replace(SIZE, threads=2), PLAIN, 0.0, 2),
    "exits": (SIZE, PLAIN, 0.0, 2),
    "with llama.cpp": (SIZE, llama_traits.traits(), 0.0, 2),
    "with llama.cpp, own cells": (OWN_CELLS, replace(llama_traits.traits(), has_own_cells=True), 0.0, 2),
    "bfloat16": (replace(SIZE, torch=TorchOptions("bfloat16")), PLAIN, 0.05, 2),
}
"""Size, what the core plans for, tolerance, random trees. Stages next to others on llama.cpp get what those ask for."""


@pytest.fixture(scope="module", params=KINDS)
def subject(request: pytest.FixtureRequest, tiny: Path) -> Iterator[Subject]:
    """Return a model of torch's."""
    size, traits, tolerance, num_seeds = KINDS[request.param]

    def open_one(layers: range) -> StageModel:
        has_exit = request.param == "exits" and layers.stop < LAYERS
        stage = open_stage(tiny, layers, LAYERS, size, has_exit)
        return Leaving(stage) if has_exit else stage

    subject = Subject(open_one, LAYERS, VOCABULARY, traits=traits, tolerance=tolerance, num_seeds=num_seeds)
    yield subject
    subject.close()


@pytest.mark.parametrize("name", {**CHECKS, **REFUSALS})
def test_torch_keeps_the_contract(name: str, subject: Subject) -> None:
    {**CHECKS, **REFUSALS}[name](subject)
