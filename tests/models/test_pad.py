"""A padded copy computes what the model computes, and K-quants fit its rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mpispec.models import gguf_file, registry
from mpispec.models.errors import ModelError
from research.pad import pad
from tests.models import tiny
from tests.models.pipeline import opened
from tests.stages import rows

pytestmark = pytest.mark.models

LAYERS = 3
TOKENS = [7 * place % tiny.VOCABULARY for place in range(1, 20)]


@pytest.mark.parametrize("tied", [False, True], ids=["own LM head", "tied"])
def test_a_padded_copy_computes_the_same(tied: bool, tmp_path: Path, part_cache: Path) -> None:
    model = tiny.llama(tmp_path / "tiny.gguf", LAYERS, tied=tied)
    padded = tmp_path / "padded.gguf"
    pad(model, padded, "padded")
    logits = []
    for path in (model, padded):
        pipeline = opened(path, [range(LAYERS)])
        logits.append(pipeline.run(rows(TOKENS)))
        pipeline.close()
    assert np.allclose(*logits, rtol=0.0, atol=1e-3 * np.abs(logits[0]).max())
    assert np.array_equal(*(each.argmax(axis=1) for each in logits))


def test_k_quants_fit_every_row(tmp_path: Path) -> None:
    padded = tmp_path / "padded.gguf"
    pad(tiny.llama(tmp_path / "tiny.gguf", LAYERS), padded, "padded")
    matrices = [tensor for tensor in gguf_file.read(padded).tensors.values() if len(tensor.dims) == 2]
    assert matrices
    assert all(tensor.dims[0] % 256 == 0 for tensor in matrices)
    assert registry.inspect(padded).width == 256


def test_another_storage_is_refused(default_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="make-pair floats"):
        pad(default_model, tmp_path / "padded.gguf", "padded")
