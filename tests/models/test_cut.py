"""Parts of the default model: their content, the cache they are kept in, and the disk that fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

from mpispec.models import cut, gguf_file
from mpispec.models.errors import ModelError
from tests.models import tiny

pytestmark = pytest.mark.models


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cache folder of this test alone."""
    monkeypatch.setenv("MPISPEC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "parts"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a small model of 6 layers."""
    return tiny.llama(tmp_path / "tiny.gguf")


@pytest.mark.parametrize("layers", [range(2), range(2, 4), range(4, 6)])
def test_an_independent_reader_finds_the_layers(model: Path, tmp_path: Path, layers: range) -> None:
    cut.cut(model, layers, tmp_path / "part.gguf")
    whole = {tensor.name: tensor for tensor in gguf.GGUFReader(model).tensors}
    part = gguf.GGUFReader(tmp_path / "part.gguf")
    assert part.fields["llama.block_count"].contents() == len(layers)
    assert part.fields["tokenizer.ggml.model"].contents() == "no_vocab"
    assert part.fields["llama.vocab_size"].contents() == (32 if layers.start == 2 else tiny.VOCABULARY)
    for tensor in part.tensors:
        head, _, rest = tensor.name.partition(".")
        if head == "blk":
            index, _, name = rest.partition(".")
            source = whole[f"blk.{int(index) + layers.start}.{name}"]
        else:
            source = whole["output.weight" if layers.stop == 6 and head == "token_embd" else tensor.name]
        assert np.array_equal(tensor.data, source.data[: len(tensor.data)])
    assert len(part.tensors) == 2 + 9 * len(layers)


def test_all_layers_are_the_source_itself(model: Path, cache: Path) -> None:
    assert cut.part(model, range(6)) == model
    assert not cache.exists()


def test_an_unchanged_source_is_not_read_again(model: Path, cache: Path) -> None:
    steps: list[tuple[int, int]] = []
    first = cut.part(model, range(2, 4), lambda done, total: steps.append((done, total)))
    assert steps[-1][0] == steps[-1][1] == first.stat().st_size
    steps.clear()
    assert cut.part(model, range(2, 4), lambda done, total: steps.append((done, total))) == first
    assert not steps
    assert not list(cache.glob("*.partial"))


def test_the_same_content_elsewhere_is_the_same_part(model: Path, cache: Path) -> None:
    copy = shutil.copy(model, model.with_name("copy.gguf"))
    assert cut.part(model, range(2, 4)) == cut.part(Path(copy), range(2, 4))
    assert cut.part(model, range(2, 4)) != cut.part(model, range(2, 5))


def test_a_changed_source_is_cut_again(model: Path, cache: Path) -> None:
    before = cut.part(model, range(2, 4))
    tensor = gguf_file.read(model).tensors["blk.3.attn_q.weight"]
    with model.open("r+b") as file:
        file.seek(tensor.offset)
        file.write(b"\1\2\3\4")
    os.utime(model, ns=(1, 1))
    assert cut.part(model, range(2, 4)) != before


@pytest.mark.parametrize("damage", ["truncate", "remove", "memo"])
def test_a_damaged_cache_is_mended(model: Path, cache: Path, damage: str) -> None:
    part = cut.part(model, range(2, 4))
    expected = part.read_bytes()
    if damage == "truncate":
        part.write_bytes(expected[:100])
    elif damage == "remove":
        part.unlink()
    else:
        next(iter(cache.glob("*.json"))).write_text("[]")
    assert cut.part(model, range(2, 4)) == part
    assert part.read_bytes() == expected


def test_leftovers_of_killed_processes_are_removed(model: Path, cache: Path) -> None:
    cache.mkdir(parents=True)
    for name, when in (("old.partial", 1), ("new.partial", None)):
        (cache / name).touch()
        if when:
            os.utime(cache / name, (when, when))
    cut.part(model, range(2, 4))
    assert [path.name for path in cache.glob("*.partial")] == ["new.partial"]


def test_ranks_may_cut_the_same_part_at_once(default_model: Path, cache: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from mpispec.models import cut;"
        "print(cut.part(Path(sys.argv[1]), range(3, 9)))"
    )
    command = [sys.executable, "-c", script, str(default_model)]
    ranks = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    found = {rank.communicate(timeout=60)[0] for rank in ranks}
    assert [rank.returncode for rank in ranks] == [0, 0, 0]
    assert len(found) == 1
    assert len(list(cache.glob("*.gguf"))) == 1
    assert gguf_file.read(found.pop().strip()).get("llama.block_count", int) == 6


def test_a_full_disk_is_one_sentence(model: Path, cache: Path) -> None:
    script = (
        "import resource, sys; from pathlib import Path; from mpispec.models import cut, errors\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: cut.part(Path(sys.argv[1]), range(2, 4))\n"
        "except errors.ModelError as error: print(error)\n"
    )
    command = [sys.executable, "-c", script, str(model)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert said.startswith("No space is left")
    assert "MPISPEC_CACHE" in said
    assert not list(cache.glob("*"))


def test_an_unusable_cache_is_one_sentence(model: Path, cache: Path) -> None:
    cache.parent.parent.mkdir(exist_ok=True)
    cache.parent.write_text("a file where the folder should be")
    with pytest.raises(ModelError, match="MPISPEC_CACHE"):
        cut.part(model, range(2, 4))


def test_a_destination_in_a_missing_folder_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Cannot write"):
        cut.cut(model, range(2, 4), tmp_path / "missing" / "part.gguf")
