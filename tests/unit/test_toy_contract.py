"""The toy model keeps the contract of a stage, also where the order of its cells matters."""

from __future__ import annotations

from functools import partial

import pytest

from mpispec.compute import toy
from mpispec.compute.toy import ToyStage
from tests.protocol.scenario import in_cell_order
from tests.stage_contract import CHECKS, REQUESTS, Subject
from tests.stages import SEQUENCES, Pipeline

pytestmark = pytest.mark.unit

LAYERS = 3
VOCABULARY = 4096
"""So many that no two rows of a check have the same token by chance."""


KINDS = {
    "any order": (False, 1, toy.TRAITS),
    "cell order": (True, 1, in_cell_order(8)),
    "own cells": (True, REQUESTS, in_cell_order(8, has_own_cells=True)),
}
"""Whether the order of cells matters, contexts, what the core plans for."""


def open_toy(in_order: bool, contexts: int, layers: range) -> Pipeline:
    """Return toys of one layer each."""
    sizes = (in_order, contexts, SEQUENCES)
    return Pipeline([ToyStage(layer, layer == LAYERS - 1, VOCABULARY, *sizes) for layer in layers])


@pytest.fixture(scope="module", params=KINDS)
def subject(request: pytest.FixtureRequest) -> Subject:
    """Return the toy model."""
    in_order, contexts, traits = KINDS[request.param]
    opened = partial(open_toy, in_order, contexts)
    return Subject(opened, LAYERS, VOCABULARY, traits=traits, hole_tolerance=in_order)


@pytest.mark.parametrize("name", CHECKS)
def test_the_toy_keeps_the_contract(name: str, subject: Subject) -> None:
    CHECKS[name](subject)
