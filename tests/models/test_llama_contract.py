"""llama.cpp keeps the contract of a stage: on small random weights, through stages with an exit, on real weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from mpispec.compute import stage_context
from mpispec.compute.base import ExitModel, StageModel
from mpispec.compute.llama_backend import LlamaBackend
from tests.models import tiny
from tests.stage_contract import CHECKS, OWN_CELLS, REFUSALS, SIZE, Leaving, Subject

pytestmark = pytest.mark.models

HOLES, HOLES_REAL = 0.01, 0.1
"""A token in a hole is summed before its ancestors (measured: 0.003 of the largest logit; 0.06 on rounded weights)."""


KINDS = {"plain": (False, False), "exits": (True, False), "own cells": (False, True), "own cells, exits": (True, True)}
"""Whether stages have exits, and whether requests have cells of their own."""


def subject_of(
    path: Path, has_exits: bool = False, has_own_cells: bool = False, holes: float = HOLES, num_seeds: int = 6
) -> Subject:
    """Return a model of llama.cpp's."""
    backend = LlamaBackend()
    model = backend.inspect(path)

    def open_stage(layers: range) -> StageModel:
        has_exit = has_exits and layers.stop < model.layers
        size = OWN_CELLS if has_own_cells else SIZE
        stage = backend.open_stage(model, layers, size, has_exit=has_exit)
        return Leaving(cast(ExitModel, stage)) if has_exit else stage

    traits = replace(backend.traits(model, True, True), has_own_cells=has_own_cells)
    return Subject(open_stage, model.layers, model.vocabulary, traits=traits, hole_tolerance=holes, num_seeds=num_seeds)


@pytest.fixture(scope="module", params=KINDS)
def small(
    request: pytest.FixtureRequest, part_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Subject]:
    """Return a random model, which looks after every layer whether to give up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage_context, "BYTES_BETWEEN_LOOKS", 1)
        subject = subject_of(tiny.llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf", 4), *KINDS[request.param])
        yield subject
    subject.close()


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "own cells"])
def real(request: pytest.FixtureRequest, default_model: Path, part_cache: Path) -> Iterator[Subject]:
    """Return SmolLM2-135M."""
    subject = subject_of(default_model, has_own_cells=request.param, holes=HOLES_REAL, num_seeds=2)
    yield subject
    subject.close()


@pytest.mark.parametrize("name", {**CHECKS, **REFUSALS})
def test_llama_cpp_keeps_the_contract(name: str, small: Subject) -> None:
    {**CHECKS, **REFUSALS}[name](small)


@pytest.mark.parametrize("name", CHECKS)
def test_llama_cpp_keeps_the_contract_on_real_weights(name: str, real: Subject) -> None:
    CHECKS[name](real)
