"""The toy model keeps the contract of a stage, also where the order of its cells matters."""

from __future__ import annotations

from functools import partial

import pytest

from mpispec.compute import toy
from mpispec.compute.toy import ToyStage
from tests.protocol.scenario import in_cell_order
from tests.stage_contract import CHECKS, Subject
from tests.stages import Pipeline

pytestmark = pytest.mark.unit

LAYERS = 3
VOCABULARY = 4096
"""So many that no two rows of a check have the same token by chance."""


def open_toy(in_order: bool, layers: range) -> Pipeline:
    """Return toys of one layer each."""
    return Pipeline([ToyStage(layer, layer == LAYERS - 1, VOCABULARY, in_order) for layer in layers])


@pytest.fixture(scope="module", params=[False, True], ids=["any order", "cell order"])
def subject(request: pytest.FixtureRequest) -> Subject:
    """Return the toy model."""
    traits = in_cell_order(8) if request.param else toy.TRAITS
    return Subject(partial(open_toy, request.param), LAYERS, VOCABULARY, traits=traits, hole_tolerance=request.param)


@pytest.mark.parametrize("name", CHECKS)
def test_the_toy_keeps_the_contract(name: str, subject: Subject) -> None:
    CHECKS[name](subject)
