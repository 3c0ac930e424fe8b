"""A stage of llama.cpp beyond the contract: when it looks whether to give up, its sizes, what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mpispec.compute.base import ComputeError, ModelError, StageSize
from mpispec.compute.llama_stage import LlamaStage
from mpispec.compute.llama_traits import SPARE_CELLS, TILE
from mpispec.core.ids import Pos, SeqId
from mpispec.core.messages import Branch, Run
from mpispec.models import cut
from tests.models.pipeline import split
from tests.stages import SEQUENCES, Pipeline, drop, row, rows, share

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


def own_cells(model: Path, contexts: int) -> LlamaStage:
    """Load the first layers with a context for each of several requests."""
    size = StageSize(context=64, sequences=SEQUENCES, threads=1, most_rows=TILE, contexts=contexts)
    return LlamaStage(cut.part(model, range(10)), size, first=True, last=False, n_layers=10)


def test_a_context_is_made_when_a_row_first_needs_it(default_model: Path, part_cache: Path) -> None:
    stage = own_cells(default_model, 3)
    made = [len(stage._contexts)]
    stage.apply([drop(SEQUENCES), share(2 * SEQUENCES, 2 * SEQUENCES + 1)])
    made.append(len(stage._contexts))
    stage.forward(Run(0, [row(1, 0), row(1, 0, 2 * SEQUENCES)]), None, bool)
    made.append(len(stage._contexts))
    stage.close()
    assert made == [1, 1, 2], "one at the start, none for operations on cells that are not there"


def test_a_tile_of_one_request_next_to_rows_of_another_has_its_bits(default_model: Path, part_cache: Path) -> None:
    stage = own_cells(default_model, 2)
    tokens = [(token * 7919) % 49000 for token in range(TILE)]
    alone = stage.forward(Run(0, rows(tokens)), None, bool)
    stage.apply([drop(0)])
    one = stage.forward(Run(0, rows(tokens[:1])), None, bool)
    stage.apply([drop(0)])
    mixed = rows(tokens, 0, SEQUENCES)
    mixed.insert(20, row(tokens[0], 0))
    with pytest.raises(ComputeError, match="65 rows; this stage takes 1 to 64"):
        stage.forward(Run(0, mixed), None, bool)
    together = stage.forward(Run(0, mixed[:TILE]), None, bool)
    stage.apply([drop(0), drop(SEQUENCES)])
    apart = stage.forward(Run(0, rows(tokens[: TILE - 1], 0, SEQUENCES)), None, bool)
    stage.close()
    assert np.array_equal(together[20], one[0])
    assert np.array_equal(np.delete(together, 20, axis=0), apart)
    assert not np.array_equal(apart, alone[: TILE - 1]), "runs of a tile have other bits, so this was none"


def test_a_tile_gives_way_to_a_row_of_another_context_and_neither_changes(
    default_model: Path, part_cache: Path
) -> None:
    stage = own_cells(default_model, 2)
    tokens = [(token * 7919) % 49000 for token in range(TILE)]
    expected = stage.forward(Run(0, rows(tokens)), None, bool)
    one = [stage.forward(Run(0, [row(token, pos, SEQUENCES)]), None, bool) for pos, token in enumerate(tokens[:8])]
    stage.apply([drop(0), drop(SEQUENCES)])
    between: list[object] = []

    def give_way() -> bool:
        pos = len(between)
        if pos < 8:
            between.append(stage.forward(Run(0, [row(tokens[pos], pos, SEQUENCES)]), None, bool))
        return False

    found = stage.forward(Run(0, rows(tokens)), None, give_way)
    stage.close()
    assert len(between) == 8, "a run of many rows looks in the middle and at the end of each layer"
    assert np.array_equal(found, expected)
    assert np.array_equal(between, one)


def test_a_run_is_given_up_between_two_contexts(default_model: Path, part_cache: Path) -> None:
    stage = own_cells(default_model, 2)
    run = Run(0, [row(1, 0), row(1, 0, SEQUENCES)])
    looks: list[int] = []

    def after_the_first() -> bool:
        looks.append(len(stage._contexts))
        return len(stage._contexts) > 1

    assert stage.forward(run, None, after_the_first) is None
    assert looks[-1] == 2 and set(looks[:-1]) == {1}
    stage.apply([drop(0), drop(SEQUENCES)])
    both = stage.forward(run, None, bool)
    stage.close()
    assert np.array_equal(both[0], both[1])


def test_nothing_goes_from_one_context_to_another(default_model: Path, part_cache: Path) -> None:
    stage = own_cells(default_model, 2)
    with pytest.raises(ComputeError, match="of 2 times"):
        stage.apply([share(0, SEQUENCES)])
    branch = Branch(SeqId(0), SeqId(SEQUENCES), Pos(0), Pos(1))
    with pytest.raises(ComputeError, match="which no cache has"):
        stage.forward(Run(0, [row(1, 0), row(1, 1)], branches=[branch]), None, bool)
    stage.close()


def test_a_stage_says_how_much_memory_a_context_takes(default_model: Path, part_cache: Path) -> None:
    stage = own_cells(default_model, 2)
    cells, layers, keys_and_values, width, f16 = 64 + SPARE_CELLS, 10, 2, 192, 2
    assert stage.context_bytes == pytest.approx(cells * layers * keys_and_values * width * f16, rel=0.1)
    stage.close()


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
