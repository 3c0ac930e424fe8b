"""The header reader against the `gguf` package, and against files that mean harm."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpispec.models import gguf_file, registry
from mpispec.models.errors import ModelError
from mpispec.models.gguf_types import ValueType

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a model's skeleton with a value of every kind."""
    path = tmp_path_factory.mktemp("gguf") / "sample.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_embedding_length(32)
    writer.add_context_length(128)
    writer.add_bool("a.bool", True)
    writer.add_int64("a.int64", -5)
    writer.add_float64("a.float64", 0.1)
    writer.add_string("a.string", "größer")
    writer.add_array("a.strings", ["x", "", "日本"])
    writer.add_array("a.ints", [1, -2, 3])
    writer.add_array("a.floats", [0.5, 1.5])
    writer.add_tensor("token_embd.weight", np.zeros((40, 32), np.float32))
    for layer in range(2):
        writer.add_tensor(f"blk.{layer}.ffn_up.weight", np.full((3, 32), layer, np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_values_and_tensors_are_those_of_the_gguf_package(sample: Path) -> None:
    found, reference = gguf_file.read(sample), gguf.GGUFReader(sample)
    for key, field in reference.fields.items():
        if not key.startswith("GGUF."):
            assert found.values[key].decode() == field.contents()
            assert found.header.obj is found.values[key].raw.obj, "values are not copied"
    assert list(found.tensors) == [tensor.name for tensor in reference.tensors]
    for tensor in reference.tensors:
        mine = found.tensors[tensor.name]
        assert (mine.type, mine.offset, mine.n_bytes) == (tensor.tensor_type, tensor.data_offset, tensor.n_bytes)
        assert mine.dims == tuple(tensor.shape)
    assert found.n_bytes == sample.stat().st_size


def test_a_value_of_another_type_is_refused(sample: Path) -> None:
    found = gguf_file.read(sample)
    assert found.get("llama.block_count", int) == 2
    assert found.get("absent", int) is None
    for key, kind in (("a.string", int), ("a.bool", int), ("a.ints", str)):
        with pytest.raises(ModelError, match="should be of type"):
            found.get(key, kind)


def string(text: bytes) -> bytes:
    """Encode a string of the format."""
    return struct.pack("<Q", len(text)) + text


def header(tensors: int, keys: int, body: bytes = b"", version: int = 3) -> bytes:
    """Encode the beginning of a file."""
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + body


def value(key: bytes, kind: int, raw: bytes) -> bytes:
    """Encode a key and its value."""
    return string(key) + struct.pack("<I", kind) + raw


def tensor(
    name: bytes = b"t", dims: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0, n_dims: int = -1
) -> bytes:
    """Encode where a tensor lies."""
    count = len(dims) if n_dims < 0 else n_dims
    return string(name) + struct.pack(f"<I{len(dims)}QIQ", count, *dims, kind, offset)


HUGE = 2**64 - 1
HOSTILE = {
    "empty": b"",
    "magic alone": b"GGUF",
    "another magic": b"GGML" + bytes(64),
    "version 1": header(0, 0, version=1),
    "big-endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "keys without end": header(0, HUGE),
    "tensors without end": header(HUGE, 0),
    "many keys, no bytes": header(0, 1000),
    "key longer than the file": header(0, 1, struct.pack("<Q", HUGE)),
    "key not UTF-8": header(0, 1, value(b"\xff", 0, b"\0")),
    "unknown value type": header(0, 1, value(b"k", 13, b"\0" * 8)),
    "string longer than the file": header(0, 1, value(b"k", 8, struct.pack("<Q", HUGE))),
    "array of arrays": header(0, 1, value(b"k", 9, struct.pack("<IQ", 9, 1))),
    "array of unknown": header(0, 1, value(b"k", 9, struct.pack("<IQ", 99, 1))),
    "array longer than the file": header(0, 1, value(b"k", 9, struct.pack("<IQ", 4, HUGE))),
    "strings longer than the file": header(0, 1, value(b"k", 9, struct.pack("<IQ", 8, HUGE))),
    "a long string among strings": header(0, 1, value(b"k", 9, struct.pack("<IQQ", 8, 2, HUGE) + bytes(64))),
    "key twice": header(0, 2, value(b"k", 0, b"\0") * 2),
    "alignment 0": header(0, 1, value(b"general.alignment", 4, bytes(4))),
    "alignment 3": header(0, 1, value(b"general.alignment", 4, struct.pack("<I", 3))),
    "alignment is text": header(0, 1, value(b"general.alignment", 8, string(b"x"))),
    "no dimensions": header(1, 0, tensor(dims=(), n_dims=0)),
    "many dimensions": header(1, 0, tensor(dims=(1,) * 5)),
    "dimensions without end": header(1, 0, tensor(n_dims=2**31)),
    "zero dimension": header(1, 0, tensor(dims=(32, 0))),
    "huge dimensions": header(1, 0, tensor(dims=(HUGE, HUGE))),
    "half a block": header(1, 0, tensor(dims=(33,), kind=2) + bytes(4096)),
    "unknown tensor type": header(1, 0, tensor(kind=4) + bytes(4096)),
    "offset beyond the end": header(1, 0, tensor(offset=2**40) + bytes(4096)),
    "offset not aligned": header(1, 0, tensor(offset=1) + bytes(4096)),
    "tensor longer than the file": header(1, 0, tensor(dims=(4096,)) + bytes(4096)),
    "long tensor name": header(1, 0, tensor(name=b"n" * 64) + bytes(4096)),
    "tensor twice": header(2, 0, tensor() + tensor(offset=128) + bytes(4096)),
    "overlap": header(2, 0, tensor() + tensor(name=b"u", offset=64) + bytes(4096)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.gguf"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(ModelError) as caught:
        gguf_file.read(path)
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text
    assert ";" in text, "the sentence names a remedy"


def test_a_sparse_giant_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "giant.gguf"
    path.write_bytes(header(0, 1, value(b"k", 9, struct.pack("<IQ", ValueType.STRING, 2**30))))
    with path.open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(ModelError, match="array of"):
        gguf_file.read(path)
    path.write_bytes(header(0, 1, value(b"k", 8, struct.pack("<Q", 2**39))))
    with path.open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(ModelError, match="header claims"):
        gguf_file.read(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no model file"):
        gguf_file.read(tmp_path / "absent.gguf")
    with pytest.raises(ModelError, match="Cannot read"):
        gguf_file.read(tmp_path)


def test_an_array_may_span_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_file, "CHUNK_BYTES", 16)
    pieces = [b"a" * length for length in (0, 1, 15, 16, 17, 40, 0, 3)]
    raw = struct.pack("<IQ", ValueType.STRING, len(pieces)) + b"".join(map(string, pieces))
    path = tmp_path / "spans.gguf"
    path.write_bytes(header(0, 2, value(b"k", 9, raw) + value(b"after", 4, struct.pack("<I", 7))))
    found = gguf_file.read(path)
    assert [bytes(piece) for piece in found.values["k"].strings()] == pieces
    assert found.values["after"].decode() == 7


def read_all(path: Path) -> None:
    """Read a file and look at all of it, as the program would."""
    found = gguf_file.read(path)
    for each in found.values.values():
        each.decode()
    registry.inspect(path)


def refused(path: Path) -> str:
    """Return what reading a file is refused with, empty if it is not."""
    try:
        read_all(path)
    except ModelError as error:
        return str(error)
    return ""


HYPOTHESIS = settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@HYPOTHESIS
@given(place=st.floats(0, 1))
def test_truncated_files_never_crash(sample: Path, tmp_path: Path, place: float) -> None:
    whole = sample.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole[: int(place * (len(whole) - 1))])
    with pytest.raises(ModelError):
        read_all(path)


@HYPOTHESIS
@given(flips=st.lists(st.tuples(st.integers(0, 1100), st.integers(1, 255)), min_size=1, max_size=6))
def test_flipped_bytes_never_crash(sample: Path, tmp_path: Path, flips: list[tuple[int, int]]) -> None:
    damaged = bytearray(sample.read_bytes())
    for place, change in flips:
        damaged[place % len(damaged)] ^= change
    path = tmp_path / "flipped.gguf"
    path.write_bytes(damaged)
    assert "\n" not in refused(path)


@HYPOTHESIS
@given(
    place=st.integers(0, 1100), field=st.sampled_from([HUGE, 2**63, 2**32, 2**31 - 1, 0]), size=st.sampled_from("IQ")
)
def test_extreme_numbers_never_crash(sample: Path, tmp_path: Path, place: int, field: int, size: str) -> None:
    damaged = bytearray(sample.read_bytes())
    raw = struct.pack("<Q", field)[: struct.calcsize(size)]
    damaged[place : place + len(raw)] = raw
    path = tmp_path / "extreme.gguf"
    path.write_bytes(damaged)
    assert "\n" not in refused(path)
