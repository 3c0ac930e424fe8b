"""A model that is cut computes what the whole computes, bit for bit."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from mpispec.compute.base import Floats, StageSize
from mpispec.compute.llama_stage import EXACT_ROWS, LlamaStage
from mpispec.compute.llama_traits import Tiling
from mpispec.core.messages import Run
from mpispec.models import cut
from tests.models.pipeline import PROMPT, split
from tests.stages import Pipeline, drop, row, rows

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def whole(default_model: Path) -> Iterator[Pipeline]:
    """Return the model on one stage."""
    pipeline = split(default_model, 1)
    yield pipeline
    pipeline.close()


@pytest.fixture(scope="module")
def expected(whole: Pipeline) -> Floats:
    """Return the logits of the prompt, computed in one batch by the whole model."""
    return whole.run(rows(PROMPT))


@pytest.fixture(scope="module", params=[2, 3, 5])
def pipeline(request: pytest.FixtureRequest, default_model: Path, part_cache: Path) -> Iterator[Pipeline]:
    """Return the model on several stages."""
    pipeline = split(default_model, request.param)
    yield pipeline
    pipeline.close()


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, len(PROMPT)])
def test_split_equals_whole_in_batches_of_any_size(pipeline: Pipeline, expected: Floats, size: int) -> None:
    assert np.array_equal(pipeline.run_in_chunks(PROMPT, size), expected)


def test_the_whole_equals_llama_cpps_own_binding(default_model: Path, expected: Floats) -> None:
    model = llama_cpp.Llama(str(default_model), n_ctx=256, n_threads=1, logits_all=True, flash_attn=True, verbose=False)
    model.eval(PROMPT)
    assert np.array_equal(model.scores[: len(PROMPT)], expected)


def test_greedy_decoding_equals_llama_cpps_own(pipeline: Pipeline, default_model: Path) -> None:
    model = llama_cpp.Llama(str(default_model), n_ctx=256, n_threads=1, flash_attn=True, verbose=False)
    generator = model.generate(PROMPT, temp=0.0, repeat_penalty=1.0)
    reference = [token for token, _ in zip(generator, range(32), strict=False)]
    found = [int(pipeline.run_in_chunks(PROMPT, 8)[-1].argmax())]
    while len(found) < 32:
        found.append(int(pipeline.run([row(found[-1], len(PROMPT) + len(found) - 1)])[0].argmax()))
    assert found == reference


def first_layers(model: Path, threads: int, max_rows: int = EXACT_ROWS) -> LlamaStage:
    """Load a stage of two layers."""
    size = StageSize(context=600, sequences=1, threads=threads, most_rows=max_rows)
    return LlamaStage(cut.part(model, range(2)), size, first=True, last=False, n_layers=2)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_bit(default_model: Path, part_cache: Path, threads: int) -> None:
    # From 256 positions on llama.cpp as it comes sums the attention of one row in as many pieces as there are threads.
    tokens = [(token * 7919 + index) % 49000 for index, token in enumerate(PROMPT * 20)]
    read, written = tokens[:250], tokens[250:]
    batches = [rows(read[start : start + 25], start) for start in range(0, 250, 25)]
    batches += [[row(token, 250 + place)] for place, token in enumerate(written)]
    outputs = []
    for number in (1, threads):
        stage = first_layers(default_model, number)
        outputs.append(np.concatenate([stage.forward(Run(0, batch), None, bool) for batch in batches]))
        stage.close()
    assert np.array_equal(*outputs)


def test_runs_of_up_to_exact_rows_keep_their_bits(default_model: Path, part_cache: Path) -> None:
    stage = first_layers(default_model, 1)
    tokens = [(token * 7919 + index) % 49000 for index, token in enumerate(PROMPT * 36)]
    expected = [stage.forward(Run(0, [row(token, pos)]), None, bool) for pos, token in enumerate(tokens)]
    stage.apply([drop(0)])
    starts = range(0, len(tokens), EXACT_ROWS)
    found = [stage.forward(Run(0, rows(tokens[start : start + EXACT_ROWS], start)), None, bool) for start in starts]
    stage.close()
    assert np.array_equal(np.concatenate(found), np.concatenate(expected))


def test_runs_of_a_tile_and_more_share_their_bits(default_model: Path, part_cache: Path) -> None:
    assert Tiling().tile == EXACT_ROWS + 1
    tokens = [(token * 7919 + index) % 49000 for index, token in enumerate(PROMPT * 36)][:512]
    stage = first_layers(default_model, 1, max_rows=len(tokens))
    outputs = []
    for sizes in ([512], [64] * 8, [72, 65, 64, 70, 66, 175]):
        ends = itertools.accumulate(sizes)
        runs = [rows(tokens[end - size : end], end - size) for size, end in zip(sizes, ends, strict=True)]
        outputs.append(np.concatenate([stage.forward(Run(0, run), None, bool) for run in runs]))
        stage.apply([drop(0)])
    by_rows = np.concatenate([stage.forward(Run(0, [row(token, pos)]), None, bool) for pos, token in enumerate(tokens)])
    stage.close()
    assert np.array_equal(outputs[0], outputs[1])
    assert np.array_equal(outputs[0], outputs[2])
    assert not np.array_equal(outputs[0], by_rows), "tiles have the bits of rows, so no rule is needed"


def test_rows_that_are_computed_again_keep_their_bits(default_model: Path, part_cache: Path) -> None:
    tokens = [(token * 7919 + index) % 49000 for index, token in enumerate(PROMPT * 36)][:168]
    stage = first_layers(default_model, 1, max_rows=len(tokens))
    whole = stage.forward(Run(0, rows(tokens)), None, bool)
    stage.apply([drop(0)])
    stage.forward(Run(0, rows(tokens[:64])), None, bool)
    stage.apply([drop(0, 40)])
    runs = [rows(tokens[start : start + 64], start) for start in (40, 104)]
    again = np.concatenate([stage.forward(Run(0, run), None, bool) for run in runs])
    stage.close()
    assert np.array_equal(again, whole[40:])


def test_graphs_of_changing_shape_are_not_mixed_up(whole: Pipeline, default_model: Path, part_cache: Path) -> None:
    # llama.cpp reuses a graph only while its shape stays; past 256 cells of the cache the shape changes by itself.
    tokens = [(token * 7919 + index) % 49000 for index, token in enumerate(PROMPT * 18)]
    sizes = [1, 1, 8, 1, 32, 32, 2, 1, 32, 32, 32, 32, 32, 1, 1, 1]
    pipeline = split(default_model, 3)
    for each in (pipeline, whole):
        each.run_in_chunks(tokens[:1], 1)
    at = 1
    for size in sizes:
        batch = rows(tokens[at : at + size], at)
        assert np.array_equal(pipeline.run(batch), whole.run(batch))
        at += size
    pipeline.close()
