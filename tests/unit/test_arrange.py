"""Arranged models as an independent reader sees them, and the sentences for what cannot be arranged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from click.testing import CliRunner

from mpispec.models.errors import ModelError
from mpispec.models.gguf_file import Tensor
from mpispec.models.gguf_types import BLOCKS
from research.agreement import agreement
from research.arrange import SCALES, Layer, arrange, echo
from research.pair import deep_layers, main
from tests.models import tiny

pytestmark = pytest.mark.unit

RESEARCH = Path(__file__).parents[2] / "scripts" / "research"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a small model of 6 layers with metadata for each layer."""
    return tiny.llama(tmp_path / "tiny.gguf", by_layer=True)


def tensors(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a file by name, as the gguf package reads them."""
    return {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}


def test_layers_stand_in_the_order_asked_for(model: Path, tmp_path: Path) -> None:
    arrange(model, [Layer(5), Layer(0), Layer(5)], tmp_path / "made.gguf", "three of six")
    whole, made = tensors(model), tensors(tmp_path / "made.gguf")
    assert len(made) == 3 * 9 + 3
    for name, data in made.items():
        index, _, rest = name.removeprefix("blk.").partition(".")
        source = f"blk.{(5, 0, 5)[int(index)]}.{rest}" if name.startswith("blk.") else name
        assert np.array_equal(data, whole[source]), name


def test_metadata_tells_the_layers_and_keeps_the_rest(model: Path, tmp_path: Path) -> None:
    arrange(model, [Layer(1), Layer(4)], tmp_path / "made.gguf", "two of six")
    before, after = gguf.GGUFReader(model).fields, gguf.GGUFReader(tmp_path / "made.gguf").fields
    assert after["llama.block_count"].contents() == 2
    assert after["llama.attention.head_count_kv"].contents() == [tiny.KV_HEADS] * 2
    assert after["general.name"].contents() == "two of six"
    assert after["tokenizer.ggml.model"].contents() == before["tokenizer.ggml.model"].contents()
    assert set(before) <= set(after)


def test_an_echo_differs_in_what_it_writes_alone(model: Path, tmp_path: Path) -> None:
    arrange(model, [Layer(2), Layer(2, noise=0.25)], tmp_path / "made.gguf", "an echo")
    made = tensors(tmp_path / "made.gguf")
    for name in ("attn_output.weight", "ffn_down.weight"):
        original, echoed = made[f"blk.0.{name}"], made[f"blk.1.{name}"]
        assert np.allclose(np.sort(original * 0.25, axis=0), np.sort(echoed, axis=0))
        assert not np.allclose(original * 0.25, echoed)
    for name in ("attn_q.weight", "attn_norm.weight", "ffn_up.weight"):
        assert np.array_equal(made[f"blk.0.{name}"], made[f"blk.1.{name}"])


@pytest.mark.parametrize("kind", sorted(SCALES))
def test_every_stored_type_is_scaled_row_by_row(kind: str) -> None:
    number, block = next((number, block) for number, block in BLOCKS.items() if block.name == kind)
    rows, columns = 7, 2 * max(block.elements, 4)
    random = np.random.default_rng(5)
    raw = random.integers(0, 256, (rows * columns // block.elements, block.n_bytes), np.uint8)
    factor, offsets = SCALES[kind]
    for offset in offsets:
        size = np.dtype(factor).itemsize
        raw[:, offset : offset + size] = random.normal(0, 1, (len(raw), 1)).astype(factor).view(np.uint8)
    tensor = Tensor("blk.0.ffn_down.weight", (columns, rows), number, 0, raw.nbytes)

    def numbers(stored: bytes) -> np.ndarray:
        data = np.frombuffer(stored, np.dtype(factor) if kind.startswith("F") else np.uint8)
        return gguf.quants.dequantize(data.reshape(rows, -1), number)

    order = np.random.default_rng(3).permutation(rows)
    halved = numbers(echo(raw.tobytes(), tensor, 0.5, seed=3))
    assert np.allclose(halved, numbers(raw.tobytes())[order] / 2, rtol=2e-3, atol=1e-3)
    assert not np.any(numbers(echo(raw.tobytes(), tensor, 0.0, seed=3)))


def test_a_model_whose_layers_know_their_place_is_refused(tmp_path: Path) -> None:
    model = tiny.gemma3(tmp_path / "gemma3.gguf")
    with pytest.raises(ModelError, match="depends on its index"):
        arrange(model, [Layer(0)], tmp_path / "made.gguf", "one of twelve")


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [([], "0 layers"), ([Layer(6)], "layers 0 to 5 only"), ([Layer(0)] * 513, "513 layers")],
)
def test_impossible_arrangements_are_one_sentence(
    model: Path, tmp_path: Path, layers: list[Layer], sentence: str
) -> None:
    with pytest.raises(ModelError, match=sentence):
        arrange(model, layers, tmp_path / "made.gguf", "nothing")
    assert not (tmp_path / "made.gguf").exists()


def test_a_stored_type_that_cannot_be_scaled_is_one_sentence(tmp_path: Path) -> None:
    model = tiny.llama(tmp_path / "tiny.gguf", quantisation=gguf.GGMLQuantizationType.BF16)
    with pytest.raises(ModelError, match="BF16"):
        arrange(model, [Layer(0), Layer(0, noise=0.1)], tmp_path / "made.gguf", "an echo")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["deep", "--factor", "2", "--noise", "2"], "--noise 2.0"),
        (["deep", "--factor", "2", "--noise", "nan"], "--noise nan"),
        (["deep", "--factor", "200", "--noise", "0"], "1200 layers"),
        (["deep", "--factor", "2", "--noise", "0", "--out", "{model}"], "the model itself"),
        (["skip", "--keep", "6"], "keep fewer"),
    ],
)
def test_bad_input_is_one_sentence(model: Path, arguments: list[str], sentence: str) -> None:
    arguments = [argument.format(model=model) for argument in arguments]
    before = model.read_bytes()
    result = CliRunner().invoke(main, [*arguments, "--model", str(model)])
    assert result.exception is not None
    assert sentence in str(result.exception)
    assert "\n" not in str(result.exception)
    assert model.read_bytes() == before


def test_the_command_ends_with_the_sentence_alone(tmp_path: Path) -> None:
    command = [sys.executable, RESEARCH, "pair", "skip", "--keep", "3", "--model", str(tmp_path / "none")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("mpispec: There is no model file")
    assert ended.stderr.count("\n") == 1


def test_echoes_follow_their_layer_or_all_layers() -> None:
    one, two = Layer(0, noise=0.2), Layer(1, noise=0.2)
    assert deep_layers(2, 5, 0.4, at_end=False) == [Layer(0), *[one] * 4, Layer(1), *[two] * 4]
    assert deep_layers(2, 5, 0.4, at_end=True) == [Layer(0), Layer(1), *[one] * 4, *[two] * 4]


def test_agreement_counts_positions_and_its_error_counts_answers() -> None:
    found = agreement([[True] * 3 + [False], [True] * 4, [False, True]])
    assert (found.share, found.lowest, found.median, found.highest) == (0.8, 0.5, 0.75, 1.0)
    assert (found.positions, found.answers) == (10, 3)
    residues = [4 * -0.05, 4 * 0.2, 2 * -0.3]
    assert found.error == pytest.approx((sum(one**2 for one in residues) * 3 / 2) ** 0.5 / 10)
    assert agreement([[True]]).error == 0.0
    assert "80.0% of 10 positions" in found.sentence("A", "B")
