"""torch keeps the contract of a stage: to the bit in float32 with any threads, and nearly in bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mpispec.compute.base import TorchOptions
from mpispec.compute.torch_backend import Tiles
from mpispec.compute.torch_stage import open_stage
from mpispec.core.traits import BackendTraits
from tests.stage_contract import CHECKS, REFUSALS, SIZE, Subject
from tests.torch.conftest import TINY

pytestmark = pytest.mark.torch

LAYERS, VOCABULARY = TINY["num_hidden_layers"], TINY["vocab_size"]
KINDS = {
    "float32": (SIZE, 0.0, 6),
    "two threads": (replace(SIZE, threads=2), 0.0, 2),
    "bfloat16": (replace(SIZE, torch=TorchOptions("bfloat16")), 0.05, 2),
}
"""Size, tolerance, random trees."""


@pytest.fixture(scope="module", params=KINDS)
def subject(request: pytest.FixtureRequest, tiny: Path) -> Iterator[Subject]:
    """Return a model of torch's."""
    size, tolerance, num_seeds = KINDS[request.param]
    subject = Subject(
        lambda layers: open_stage(tiny, layers, LAYERS, size),
        LAYERS,
        VOCABULARY,
        traits=BackendTraits(prefill=Tiles()),
        tolerance=tolerance,
        num_seeds=num_seeds,
    )
    yield subject
    subject.close()


@pytest.mark.parametrize("name", {**CHECKS, **REFUSALS})
def test_torch_keeps_the_contract(name: str, subject: Subject) -> None:
    {**CHECKS, **REFUSALS}[name](subject)
