"""Splitting layers, and saying no to models that cannot be cut."""

from __future__ import annotations

import itertools
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpispec.models import cut, gguf_file, registry
from mpispec.models.errors import ModelError

pytestmark = pytest.mark.unit


@settings(derandomize=True, deadline=None)
@given(n_layers=st.integers(1, 200), stages=st.integers(1, 32), unit=st.sampled_from([1, 2, 6]), head=st.floats(0, 50))
def test_ranges_cover_all_layers_once(n_layers: int, stages: int, unit: int, head: float) -> None:
    if stages > -(-n_layers // unit):
        with pytest.raises(ModelError, match="cannot be split"):
            registry.ranges(n_layers, stages, unit, head)
        return
    found = registry.ranges(n_layers, stages, unit, head)
    assert len(found) == stages
    assert [layer for layers in found for layer in layers] == list(range(n_layers))
    assert all(layers and layers.start % unit == 0 for layers in found)


@pytest.mark.parametrize("stages", [0, -1])
def test_an_impossible_number_of_stages_is_refused(stages: int) -> None:
    with pytest.raises(ModelError, match="cannot be split"):
        registry.ranges(30, stages)


def test_ranges_are_even() -> None:
    assert [len(layers) for layers in registry.ranges(30, 4)] == [8, 8, 7, 7]
    assert [len(layers) for layers in registry.ranges(30, 3, head_layers=6)] == [12, 12, 6]
    assert [len(layers) for layers in registry.ranges(26, 4, 6)] == [12, 6, 6, 2]


def test_a_first_stage_with_other_work_gets_fewer_layers() -> None:
    assert [len(layers) for layers in registry.ranges(120, 7, head_layers=8, first_layers=3)] == [
        16,
        19,
        19,
        19,
        18,
        18,
        11,
    ]
    assert [len(layers) for layers in registry.ranges(30, 4, first_layers=0.01)] == [7, 8, 8, 7]
    assert [len(layers) for layers in registry.ranges(4, 4, head_layers=8, first_layers=3)] == [1, 1, 1, 1]


def test_of_stages_alike_the_one_with_the_fewest_layers_gets_another() -> None:
    counts = [len(layers) for layers in registry.ranges(120, 8, head_layers=8, first_layers=2)]
    assert counts == [15, 16, 16, 16, 16, 16, 16, 9]


@pytest.mark.parametrize(
    ("exits", "counts"),
    [((), [11, 10, 10, 3]), ((0,), [5, 12, 12, 5]), ((1,), [12, 5, 12, 5]), ((0, 1, 2), [9, 9, 8, 8])],
)
def test_a_stage_with_an_exit_gets_fewer_layers(exits: tuple[int, ...], counts: list[int]) -> None:
    assert [len(layers) for layers in registry.ranges(34, 4, head_layers=8, exits=exits)] == counts


def model(
    path: Path,
    architecture: str = "llama",
    layers: int = 4,
    claimed: int | None = None,
    name: str | None = None,
    **numbers: int,
) -> Path:
    """Write the skeleton of a model; `numbers` become keys of the architecture."""
    return _written(gguf.GGUFWriter(path, architecture), path, architecture, layers, claimed, name, numbers)


def split_model(folder: Path, small_first_shard: bool) -> list[Path]:
    """Write one in several files, as llama-gguf-split does: metadata in the first alone, layers in any."""
    folder.mkdir()
    writer = gguf.GGUFWriter(folder / "m.gguf", "llama", split_max_tensors=2, small_first_shard=small_first_shard)
    _written(writer, folder / "m.gguf", "llama", 4, None, None, {})
    return sorted(folder.iterdir())


def _written(
    writer: gguf.GGUFWriter,
    path: Path,
    architecture: str,
    layers: int,
    claimed: int | None,
    name: str | None,
    numbers: dict[str, int],
) -> Path:
    writer.add_block_count(layers if claimed is None else claimed)
    writer.add_embedding_length(32)
    writer.add_context_length(128)
    if name is not None:
        writer.add_name(name)
    for key, number in numbers.items():
        writer.add_uint32(f"{architecture}.{key}", number)
    writer.add_tensor("token_embd.weight", np.zeros((40, 32), np.float32))
    for layer in range(layers):
        writer.add_tensor(f"blk.{layer}.ffn_up.weight", np.zeros((3, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_summary_has_the_figures_of_the_file(tmp_path: Path) -> None:
    summary = registry.inspect(model(tmp_path / "a.gguf"))
    assert (summary.architecture, summary.layers, summary.width, summary.vocabulary) == ("llama", 4, 32, 40)
    assert (summary.context, summary.name, summary.certified, summary.unit) == (128, "a", True, 1)
    assert summary.layer_bytes == (384,) * 4
    assert summary.embedding_bytes == summary.head_bytes == 40 * 32 * 4
    assert summary.head_layers == pytest.approx(40 * 32 * 4 / (384 + 2 * 512 * 32))


def test_the_size_of_a_cell_is_that_of_keys_and_values(tmp_path: Path) -> None:
    grouped = {"attention.head_count": 4, "attention.head_count_kv": 2}
    assert registry.inspect(model(tmp_path / "a.gguf", **grouped)).cell_bytes == 2 * 2 * (8 + 8)
    wide = {**grouped, "attention.key_length": 16, "attention.value_length": 12}
    assert registry.inspect(model(tmp_path / "b.gguf", **wide)).cell_bytes == 2 * 2 * (16 + 12)
    assert registry.inspect(model(tmp_path / "c.gguf", **{"attention.head_count": 4})).cell_bytes == 2 * 4 * (8 + 8)
    assert registry.inspect(model(tmp_path / "d.gguf")).cell_bytes == 0


@pytest.mark.parametrize(
    ("options", "layers", "reason"),
    [
        ({"architecture": "mamba"}, range(2), "not certified"),
        ({"expert_count": 8}, range(2), "Mixture-of-experts"),
        ({"architecture": "gemma3", "layers": 12}, range(4), "every 6 layers"),
        ({"architecture": "gemma3", "layers": 62}, range(6), "attention scale"),
        ({"architecture": "gemma3", "layers": 68}, range(6, 68), "computed wrongly"),
        ({}, range(2, 5), "no range"),
        ({}, range(2, 2), "no range"),
        ({}, range(0, 4, 2), "no range"),
        ({"claimed": 5}, range(2), "claims 5 layers"),
        ({"claimed": 600}, range(2), "at most 512"),
        ({"claimed": 0}, range(2), "does not say"),
    ],
)
def test_what_cannot_be_cut_is_refused(tmp_path: Path, options: dict, layers: range, reason: str) -> None:
    path = model(tmp_path / "a.gguf", **options)
    with pytest.raises(ModelError, match=reason):
        registry.check_cut(gguf_file.read(path), layers)
    with pytest.raises(ModelError, match=reason):
        cut.cut(path, layers, tmp_path / "part.gguf")
    assert not (tmp_path / "part.gguf").exists()


@pytest.mark.parametrize("small_first_shard", [False, True])
def test_a_part_of_a_split_model_is_told_how_to_become_whole(tmp_path: Path, small_first_shard: bool) -> None:
    parts = split_model(tmp_path / "split", small_first_shard)
    assert len(parts) == 3 + small_first_shard
    refused = (registry.inspect, lambda path: registry.check_cut(gguf_file.read(path), range(1)))
    for part, look in itertools.product(parts, refused):
        with pytest.raises(ModelError, match=f"is one of {len(parts)} files of a split model") as refusal:
            look(part)
        assert f"llama-gguf-split --merge {parts[0]} MERGED.gguf" in str(refusal.value)


def test_insisting_cuts_what_is_not_certified(tmp_path: Path) -> None:
    path = model(tmp_path / "a.gguf", architecture="unheard")
    summary = registry.inspect(path)
    assert not summary.certified
    assert "not certified" in summary.reason
    cut.cut(path, range(1, 3), tmp_path / "part.gguf", insist=True)
    part = gguf_file.read(tmp_path / "part.gguf")
    assert part.get("unheard.block_count", int) == 2
    assert sorted(part.tensors) == ["blk.0.ffn_up.weight", "blk.1.ffn_up.weight", "token_embd.weight"]


def test_arrays_by_layer_are_sliced(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(4)
    writer.add_embedding_length(32)
    writer.add_head_count_kv([5, 6, 7, 8])
    writer.add_array("llama.other", [1, 2, 3])
    writer.add_array("general.tags", ["a", "b", "c", "d"])
    writer.add_tensor("token_embd.weight", np.zeros((40, 32), np.float32))
    for layer in range(4):
        writer.add_tensor(f"blk.{layer}.ffn_up.weight", np.zeros((3, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    cut.cut(path, range(1, 3), tmp_path / "part.gguf")
    part = gguf_file.read(tmp_path / "part.gguf")
    assert part.values["llama.attention.head_count_kv"].decode() == [6, 7]
    assert part.values["llama.other"].decode() == [1, 2, 3]
    assert part.values["general.tags"].decode() == ["a", "b", "c", "d"]


def test_what_a_file_calls_itself_does_not_steer_the_terminal(tmp_path: Path) -> None:
    assert registry.inspect(model(tmp_path / "a.gguf", name="\x1b[2J\x9b\u202eLlama\n")).name == "[2JLlama"
    with pytest.raises(ModelError, match="does not name its architecture"):
        registry.inspect(model(tmp_path / "a.gguf", architecture="\x1b[2J"))


def test_what_is_no_language_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(b"GGUF\3\0\0\0" + bytes(16))
    with pytest.raises(ModelError, match="does not name its architecture"):
        registry.inspect(path)
