"""The cache contract on real weights: labels, cache operations, aborted runs, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mpispec.compute.base import ComputeError, ModelError, StageSize
from mpispec.compute.llama_stage import SPARE_CELLS, LlamaStage
from mpispec.core.ids import Pos, SeqId
from mpispec.core.messages import Branch, CacheOp, CacheOpKind, Run
from mpispec.models import cut
from tests.models.pipeline import PROMPT, Pipeline, drop, row, rows, share, split

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def pipeline(default_model: Path, part_cache: Path) -> Iterator[Pipeline]:
    """Return the model on two stages."""
    pipeline = split(default_model, 2)
    yield pipeline
    pipeline.close()


def test_siblings_in_one_batch_equal_siblings_decoded_apart(pipeline: Pipeline) -> None:
    end = len(PROMPT)
    apart = []
    for token in (504, 1116, 29):
        pipeline.run_in_chunks(PROMPT, 16)
        apart.append(pipeline.run([row(token, end)])[0])
    pipeline.run_in_chunks(PROMPT, 16)
    siblings = [row(504, end, 0), row(1116, end, 1), row(29, end, 2)]
    together = pipeline.run(siblings, [share(0, 1), share(0, 2)])
    np.testing.assert_allclose(together, apart, rtol=0, atol=1e-3)


def test_a_branch_that_wins_stays_and_the_losers_leave(pipeline: Pipeline) -> None:
    end = len(PROMPT)
    pipeline.run_in_chunks(PROMPT, 16)
    pipeline.run([row(1116, end)])
    expected = pipeline.run([row(314, end + 1)])
    pipeline.run_in_chunks(PROMPT, 16)
    pipeline.run([row(504, end, 0), row(1116, end, 1)], [share(0, 1)])
    found = pipeline.run([row(314, end + 1, 1)], [drop(0)])
    # The loser's cell is a hole that the next token fills, so attention sums in another order (measured: up to 1).
    assert found.argmax() == expected.argmax()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1.5)


def test_a_tree_in_one_run_equals_its_paths_decoded_apart(pipeline: Pipeline) -> None:
    end = len(PROMPT)
    apart = []
    for path in ((504, 314), (504, 29), (1116,)):
        pipeline.run_in_chunks(PROMPT, 16)
        apart.append(pipeline.run(rows(path, end))[-1])
    pipeline.run_in_chunks(PROMPT, 16)
    tree = [row(504, end, 0), row(1116, end, 1), row(314, end + 1, 0), row(29, end + 1, 2)]
    branch = Branch(SeqId(0), SeqId(2), Pos(end), Pos(end + 1))
    _, other, left, right = pipeline.run(tree, [share(0, 1), share(0, 2)], [branch])
    np.testing.assert_allclose([left, right, other], apart, rtol=0, atol=1e-3)
    pipeline.run([row(7, end + 2, 2)], [drop(0), drop(1)])  # the trunk stays where only its branch has survived


def test_a_tree_whose_dead_cells_keep_their_places_has_the_bits_of_a_chain(pipeline: Pipeline) -> None:
    deferred, text = 7, [5 + 11 * place for place in range(24)]
    start = len(PROMPT)
    pipeline.run_in_chunks(PROMPT, 16)
    expected = [pipeline.run([row(token, start + place)])[0] for place, token in enumerate(text)]
    pipeline.run_in_chunks(PROMPT, 16)
    cache_ops: list[CacheOp] = []
    for place, token in enumerate(text):
        pos = start + place
        pair = [row(token, pos, 0), row(token + 1, pos, 1)]
        right = place % 2
        logits = pipeline.run(pair[::-1] if right else pair, [*cache_ops, share(0, 1)])
        assert np.array_equal(logits[right], expected[place]), place
        cache_ops = [share(1, deferred, pos), drop(1)]
        if place % 10 == 9:
            cache_ops += [drop(deferred), CacheOp(CacheOpKind.GATHER, SeqId(0), SeqId(0), Pos(0), -1)]


def test_a_rejected_chain_is_truncated_without_a_trace(pipeline: Pipeline) -> None:
    expected = pipeline.run_in_chunks(PROMPT, 8)[-3:]
    pipeline.run_in_chunks(PROMPT[:-3], 8)
    pipeline.run(rows([5, 6, 7, 8], len(PROMPT) - 3))
    found = pipeline.run(rows(PROMPT[-3:], len(PROMPT) - 3), [drop(0, len(PROMPT) - 3)])
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("stage", [0, 1])
def test_a_run_that_is_aborted_and_dropped_leaves_no_trace(pipeline: Pipeline, stage: int) -> None:
    expected = pipeline.run_in_chunks(PROMPT, 16)[-2:]
    pipeline.run_in_chunks(PROMPT[:-2], 16)
    batch = rows(PROMPT[-2:], len(PROMPT) - 2)
    first = pipeline.stages[0].forward(Run(0, batch), None, bool) if stage else None
    looks = iter([False, False, True])
    assert pipeline.stages[stage].forward(Run(0, batch), first, lambda: next(looks)) is None
    assert next(looks, None) is None, "the flag was not looked at between layers"
    pipeline.apply(drop(0, len(PROMPT) - 2))
    assert np.array_equal(pipeline.run(batch), expected)


def test_a_run_cancelled_before_it_begins_writes_nothing(pipeline: Pipeline) -> None:
    expected = pipeline.run_in_chunks(PROMPT, 16)[-1:]
    pipeline.run_in_chunks(PROMPT[:-1], 16)
    assert pipeline.stages[0].forward(Run(0, [row(9, len(PROMPT) - 1)]), None, lambda: True) is None
    assert np.array_equal(pipeline.run([row(PROMPT[-1], len(PROMPT) - 1)]), expected)


def test_an_error_of_the_abort_callback_is_raised(pipeline: Pipeline) -> None:
    answers = iter([False])
    pipeline.apply(drop(0))
    with pytest.raises(StopIteration):
        pipeline.stages[0].forward(Run(0, [row(1, 0)]), None, lambda: next(answers))
    pipeline.apply(drop(0))


@pytest.mark.parametrize(
    "batch",
    [
        [],
        rows([1] * 33),
        [row(-1, 0)],
        [row(49152, 0)],
        [row(1, -1)],
        [row(1, 0, 8)],
        [row(1, 0, -1)],
        [row(1, 17)],
    ],
)
def test_impossible_rows_are_refused(pipeline: Pipeline, batch: list) -> None:
    pipeline.run_in_chunks(PROMPT, 16)
    with pytest.raises(ComputeError):
        pipeline.stages[0].forward(Run(0, batch), None, bool)


@pytest.mark.parametrize("shape", [None, (1, 576), (2, 575)])
def test_activations_of_another_shape_are_refused(pipeline: Pipeline, shape: tuple[int, int] | None) -> None:
    given = None if shape is None else np.zeros(shape, np.float32)
    with pytest.raises(ComputeError, match="activations"):
        pipeline.stages[1].forward(Run(0, rows([1, 2], 100)), given, bool)


@pytest.mark.parametrize("cache_op", [share(0, 8), share(-1, 0), drop(8)])
def test_cache_operations_of_unknown_sequences_are_refused(pipeline: Pipeline, cache_op: tuple) -> None:
    with pytest.raises(ComputeError, match="sequence"):
        pipeline.apply(cache_op)


def test_a_full_cache_says_so(default_model: Path, part_cache: Path) -> None:
    size = StageSize(context=256, sequences=1, threads=1, most_rows=64)
    stage = LlamaStage(cut.part(default_model, range(1)), size, first=True, last=False, n_layers=1)
    for start in range(0, 256 + SPARE_CELLS, 64):
        stage.forward(Run(0, rows([7] * 64, start)), None, bool)
    with pytest.raises(ComputeError, match="full"):
        stage.forward(Run(0, rows([7], 256 + SPARE_CELLS)), None, bool)
    stage.close()


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
