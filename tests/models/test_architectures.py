"""What certifies an architecture: cut anywhere it may be cut, the parts compute what the whole computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType

from mpispec.compute.base import Floats
from mpispec.models import registry
from tests.models import tiny
from tests.models.pipeline import opened

pytestmark = [pytest.mark.models, pytest.mark.usefixtures("part_cache")]

TOKENS = tuple((7 * index) % tiny.VOCABULARY for index in range(1, 25))


def logits(model: Path, ranges: list[range], insist: bool = False) -> Floats:
    """Return the logits of TOKENS, fed in chunks of 5."""
    pipeline = opened(model, ranges, insist=insist)
    found = pipeline.run_in_chunks(TOKENS, 5)
    pipeline.close()
    return found


MODELS = {
    "llama": tiny.llama,
    "llama-tied": lambda path: tiny.llama(path, tied=True),
    "llama-by-layer": lambda path: tiny.llama(path, by_layer=True),
    "llama-q4_0": lambda path: tiny.llama(path, quantisation=GGMLQuantizationType.Q4_0),
    "llama-q8_0": lambda path: tiny.llama(path, quantisation=GGMLQuantizationType.Q8_0),
    "qwen2": tiny.qwen2,
    "qwen3": tiny.qwen3,
    "gemma3": tiny.gemma3,
}


@pytest.mark.parametrize("name", MODELS)
def test_parts_compute_what_the_whole_computes(name: str, tmp_path: Path) -> None:
    assert {each.partition("-")[0] for each in MODELS} == set(registry.CERTIFIED)
    model = MODELS[name](tmp_path / "tiny.gguf")
    summary = registry.inspect(model)
    assert summary.certified
    whole = logits(model, [range(summary.layers)])
    assert np.isfinite(whole).all()
    assert whole.std() > 0.01
    most = summary.layers // summary.unit
    for stages in {2, most}:
        assert np.array_equal(logits(model, registry.ranges(summary.layers, stages, summary.unit)), whole)


def test_the_comparison_can_fail(tmp_path: Path) -> None:
    # gemma3 counts its global layers from the first one, so a cut between them shifts the pattern.
    model = tiny.gemma3(tmp_path / "tiny.gguf")
    whole = logits(model, [range(12)])
    assert not np.array_equal(logits(model, [range(4), range(4, 12)], insist=True), whole)
