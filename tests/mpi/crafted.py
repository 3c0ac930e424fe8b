"""Models made from other models: with blocks left out, with more tokens, or as an uncertified architecture."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from mpispec.models import gguf_file
from mpispec.models.gguf_file import GgufFile, Tensor, Value
from mpispec.models.gguf_types import ValueType

UNUSED = 5
"""LLAMA_TOKEN_TYPE_UNUSED"""
_BLOCK = re.compile(r"blk\.(\d+)\.(.+)")


def thinned(source: Path, destination: Path, kept: Sequence[int]) -> Path:
    """Write the whole model, tokenizer and all, with only the blocks `kept`: a draft that is often wrong."""
    model = gguf_file.read(source)
    count = f"{model.get('general.architecture', str)}.block_count"
    values = {**model.values, count: Value(ValueType.UINT32, memoryview(struct.pack("<I", len(kept))))}
    return _write(model, destination, values, dict(_renumbered(model, kept)))


def renamed(source: Path, destination: Path, architecture: str) -> Path:
    """Write the same model under the name of another architecture."""
    model = gguf_file.read(source)
    old = model.get("general.architecture", str)
    values = {
        architecture + key.removeprefix(old) if key.startswith(f"{old}.") else key: value
        for key, value in model.values.items()
    }
    values["general.architecture"] = Value(ValueType.STRING, memoryview(_text(architecture)))
    return _write(model, destination, values, model.tensors)


def shortened(source: Path, destination: Path, context: int) -> Path:
    """Write the same model as one that was trained for `context` positions."""
    model = gguf_file.read(source)
    key = f"{model.get('general.architecture', str)}.context_length"
    values = {**model.values, key: Value(ValueType.UINT32, memoryview(struct.pack("<I", context)))}
    return _write(model, destination, values, model.tensors)


def infilling(source: Path, destination: Path, tokens: Sequence[int]) -> Path:
    """Write a model whose file names the tokens before a prefix, before a suffix and before what goes between."""
    model = gguf_file.read(source)
    keys = (f"tokenizer.ggml.fim_{name}_token_id" for name in ("pre", "suf", "mid"))
    named = zip(keys, tokens, strict=True)
    values = {key: Value(ValueType.UINT32, memoryview(struct.pack("<I", token))) for key, token in named}
    return _write(model, destination, {**model.values, **values}, model.tensors)


def padded(source: Path, destination: Path, count: int, first: int | None = None) -> Path:
    """Write the same model with `count` tokens more at the end, which no text can spell.

    Their rows are zero, as padding is; from `first` on copies of other tokens' rows where that is given, so that the
    model takes them for as likely. The embedding must be the LM head too.
    """
    model = gguf_file.read(source)
    table = model.tensors["token_embd.weight"]
    size = table.dims[1]
    row = table.n_bytes // size
    rows = bytes(count * row)
    if first is not None:
        start = table.offset + first * row
        rows = source.read_bytes()[start : start + count * row]
    lists = {
        "tokenizer.ggml.tokens": b"".join(_text(f"[PAD{size + index}]") for index in range(count)),
        "tokenizer.ggml.token_type": struct.pack("<i", UNUSED) * count,
        "tokenizer.ggml.scores": struct.pack("<f", 0.0) * count,
    }
    longer = {
        key: Value(ValueType.ARRAY, _longer(model.values[key], count, more))
        for key, more in lists.items()
        if key in model.values
    }
    tensors = {**model.tensors, table.name: replace(table, dims=(table.dims[0], size + count))}
    return _write(model, destination, {**model.values, **longer}, tensors, {table.name: rows})


def _longer(value: Value, count: int, more: bytes) -> memoryview:
    return memoryview(bytes(value.raw[:4]) + struct.pack("<Q", len(value) + count) + bytes(value.raw[12:]) + more)


def _renumbered(model: GgufFile, kept: Sequence[int]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in model.tensors.items():
        match = _BLOCK.fullmatch(name)
        if match is None:
            yield name, tensor
        elif int(match[1]) in kept:
            yield f"blk.{kept.index(int(match[1]))}.{match[2]}", tensor


def _write(
    model: GgufFile,
    destination: Path,
    values: dict[str, Value],
    tensors: dict[str, Tensor],
    more: Mapping[str, bytes] = MappingProxyType({}),
) -> Path:
    """Write a model file; `more` are bytes that follow those of a tensor."""
    header = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(values))]
    header += [_text(key) + struct.pack("<I", value.type) + value.raw for key, value in values.items()]
    offset = 0
    for name, tensor in tensors.items():
        header += [_text(name), struct.pack(f"<I{len(tensor.dims)}Q", len(tensor.dims), *tensor.dims)]
        header.append(struct.pack("<IQ", tensor.type, offset))
        n_bytes = tensor.n_bytes + len(more.get(tensor.name, b""))
        offset += -(-n_bytes // model.alignment) * model.alignment
    source = model.path.read_bytes()
    with destination.open("wb") as file:
        file.write(b"".join(header))
        for tensor in tensors.values():
            file.write(bytes(-file.tell() % model.alignment))
            file.write(source[tensor.offset : tensor.offset + tensor.n_bytes])
            file.write(more.get(tensor.name, b""))
        file.write(bytes(-file.tell() % model.alignment))
    return destination


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw
