"""Float32 copies of models, compared with what the gguf package makes of the same bytes."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from click.testing import CliRunner

from mpispec.models.errors import ModelError
from mpispec.models.gguf_types import BLOCKS
from research.pair import main
from research.widen import WIDENED, widen, widened
from tests.models import tiny

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("name", sorted(WIDENED))
def test_every_stored_type_is_read_as_gguf_reads_it(name: str) -> None:
    kind, block = next((kind, block) for kind, block in BLOCKS.items() if block.name == name)
    rows, columns = 7, 2 * max(block.elements, 4)
    random = np.random.default_rng(5)
    stored = gguf.quants.quantize(random.normal(0, 1, (rows, columns)).astype(np.float32), kind)
    expected = gguf.quants.dequantize(stored, kind)
    found = np.frombuffer(widened(stored.tobytes(), kind), np.float32).reshape(rows, columns)
    assert np.array_equal(found, expected)


def test_a_copy_holds_the_same_numbers_as_float32(tmp_path: Path) -> None:
    model = tiny.llama(tmp_path / "tiny.gguf", quantisation=gguf.GGMLQuantizationType.Q8_0)
    result = CliRunner().invoke(main, ["floats", "--model", str(model), "--out", str(tmp_path / "copy.gguf"), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["copy"] == str(tmp_path / "copy.gguf")
    before = {tensor.name: tensor for tensor in gguf.GGUFReader(model).tensors}
    after = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "copy.gguf").tensors}
    assert list(before) == list(after)
    for name, tensor in after.items():
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
        assert tensor.shape.tolist() == before[name].shape.tolist()
        numbers = gguf.quants.dequantize(before[name].data, before[name].tensor_type)
        assert np.array_equal(tensor.data, numbers), name


def test_a_type_that_cannot_be_widened_is_one_sentence(tmp_path: Path) -> None:
    model = tiny.llama(tmp_path / "tiny.gguf", quantisation=gguf.GGMLQuantizationType.Q5_0)
    with pytest.raises(ModelError, match="stored as Q5_0, which cannot be widened"):
        widen(model, tmp_path / "copy.gguf", "copy")
    assert not (tmp_path / "copy.gguf").exists()
