"""A stage of llama.cpp beyond the contract: when it looks whether to give up, its sizes, what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mpispec.compute.base import ComputeError, ModelError, StageSize
from mpispec.compute.llama_stage import LlamaStage
from mpispec.core.messages import Run
from mpispec.models import cut
from tests.models.pipeline import split
from tests.stages import Pipeline, row, rows

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def pipeline(default_model: Path, part_cache: Path) -> Iterator[Pipeline]:
    """Return the model on two stages."""
    pipeline = split(default_model, 2)
    yield pipeline
    pipeline.close()


def test_a_stage_looks_every_few_layers_whether_to_give_up(pipeline: Pipeline) -> None:
    run, looks = Run(0, [row(1, 0)]), iter([False, False, True])
    assert pipeline.stages[0].forward(run, None, lambda: next(looks)) is None
    assert next(looks, None) is None, "the flag was not looked at between layers"
    pipeline.clear()


def test_an_error_of_the_abort_callback_is_raised(pipeline: Pipeline) -> None:
    answers = iter([False])
    with pytest.raises(StopIteration):
        pipeline.stages[0].forward(Run(0, [row(1, 0)]), None, lambda: next(answers))
    pipeline.clear()


def test_more_rows_than_a_stage_was_loaded_for_are_refused(pipeline: Pipeline) -> None:
    with pytest.raises(ComputeError, match="33 rows; this stage takes 1 to 32"):
        pipeline.stages[0].forward(Run(0, rows([1] * 33)), None, bool)


@pytest.mark.parametrize(("sequences", "max_rows"), [(1, 1), (256, 1), (8, 64)])
def test_any_number_of_sequences_and_rows_is_computed(
    default_model: Path, part_cache: Path, sequences: int, max_rows: int
) -> None:
    part = cut.part(default_model, range(15, 30))
    size = StageSize(context=64, sequences=sequences, threads=1, most_rows=max_rows)
    stage = LlamaStage(part, size, first=False, last=True, n_layers=15)
    run = Run(0, rows([0] * max_rows, 0, sequences - 1))
    logits = stage.forward(run, np.ones((max_rows, 576), np.float32), bool)
    stage.close()
    assert logits is not None
    assert logits.shape == (max_rows, 49152)


def test_another_number_of_layers_is_refused(default_model: Path, part_cache: Path) -> None:
    part = cut.part(default_model, range(15))
    size = StageSize(context=64, sequences=1, threads=1, most_rows=8)
    with pytest.raises(ModelError, match="15 layers, not 14"):
        LlamaStage(part, size, first=True, last=False, n_layers=14)


def test_llama_cpps_reason_is_passed_on(tmp_path: Path, default_model: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(default_model.read_bytes()[:3_000_000])
    size = StageSize(context=64, sequences=1, threads=1, most_rows=8)
    with pytest.raises(ModelError, match="llama.cpp cannot load") as caught:
        LlamaStage(broken, size, first=True, last=True, n_layers=30)
    assert "no reason" not in str(caught.value)
