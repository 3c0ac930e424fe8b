"""What a part of a model contains: the header of a GGUF file that llama.cpp loads as a smaller model."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mpispec.models.gguf_file import MAGIC, GgufFile, Tensor, Value
from mpispec.models.gguf_types import ValueType
from mpispec.models.registry import BLOCK, EMBEDDING, HEAD, architecture_of, layer_count

MIDDLE_VOCABULARY = 32
"""Rows of the embedding that a stage keeps which neither embeds nor decides: llama.cpp insists on having some."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A tensor of a part."""

    name: str
    dims: tuple[int, ...]
    type: int
    source: int
    """First byte in the source file."""
    n_bytes: int
    """Bytes in the part."""
    change: Callable[[bytes], bytes] | None = None
    """Makes `n_bytes` of all its bytes at once; None: they are copied as they are."""
    source_bytes: int | None = None
    """Bytes in the source file; None: as many as in the part."""


@dataclass(frozen=True, slots=True)
class PartPlan:
    """A part's header, and where the bytes that follow it come from."""

    header: bytes
    """Up to and with the padding before the first tensor."""
    pieces: tuple[Piece, ...]
    """In the order of the part; each is padded to `alignment`."""
    alignment: int
    n_bytes: int = field(init=False)
    """Size of the part's file."""

    def __post_init__(self) -> None:
        size = len(self.header) + sum(padded(piece.n_bytes, self.alignment) for piece in self.pieces)
        object.__setattr__(self, "n_bytes", size)


def plan(model: GgufFile, layers: range, has_exit: bool = False) -> PartPlan:
    """Plan the part of `model` that holds the layers [start, stop), numbered anew from 0.

    No part needs the tokenizer: `no_vocab` leaves a model that takes token ids or activations. The first part keeps
    the embedding, the last and one with an exit the projection, all with the true vocabulary; others have 32 rows.
    """
    pieces = _pieces(model, layers, has_exit)
    vocabulary = next(piece.dims[1] for piece in pieces if piece.name == EMBEDDING)
    return assemble(model, pieces, _values(model, layers, vocabulary))


def assemble(model: GgufFile, pieces: Sequence[Piece], values: Mapping[str, Value]) -> PartPlan:
    """Plan a file of these tensors of `model` and this metadata, GGUF version 3."""
    parts = [MAGIC, struct.pack("<IQQ", 3, len(pieces), len(values))]
    parts += [_raw_text(key) + struct.pack("<I", value.type) + value.raw for key, value in values.items()]
    offset = 0
    for piece in pieces:
        dims = struct.pack(f"<I{len(piece.dims)}Q", len(piece.dims), *piece.dims)
        parts.append(_raw_text(piece.name) + dims + struct.pack("<IQ", piece.type, offset))
        offset += padded(piece.n_bytes, model.alignment)
    header = b"".join(parts)
    return PartPlan(header.ljust(padded(len(header), model.alignment), b"\0"), tuple(pieces), model.alignment)


def layer_values(model: GgufFile, layers: Sequence[int]) -> dict[str, Value]:
    """Return the metadata of a model made of these layers of `model`, in this order."""
    architecture, count = architecture_of(model), layer_count(model)
    values = dict(model.values)
    for key, value in model.values.items():
        if key.startswith(f"{architecture}.") and value.element_type is not None and len(value) == count:
            values[key] = _picked(value, layers)
    values[f"{architecture}.block_count"] = number(len(layers))
    return values


def number(value: int) -> Value:
    """Make a metadata value of an unsigned number."""
    return Value(ValueType.UINT32, memoryview(struct.pack("<I", value)))


def text(value: str) -> Value:
    """Make a metadata value of a text."""
    return Value(ValueType.STRING, memoryview(_raw_text(value)))


def padded(n_bytes: int, alignment: int) -> int:
    """Round up to a multiple of `alignment`."""
    return -(-n_bytes // alignment) * alignment


def _pieces(model: GgufFile, layers: range, has_exit: bool) -> list[Piece]:
    decides = has_exit or layers.stop == layer_count(model)
    pieces = [_embedding(model, layers, decides)]
    if decides and layers.start == 0 and HEAD in model.tensors:
        pieces.append(_piece(HEAD, model.tensors[HEAD]))
    for name, tensor in model.tensors.items():
        match = BLOCK.fullmatch(name)
        if match and int(match[1]) in layers:
            pieces.append(_piece(f"blk.{int(match[1]) - layers.start}.{match[2]}", tensor))
        elif not match and name not in (EMBEDDING, HEAD) and (decides or not name.startswith("output.")):
            pieces.append(_piece(name, tensor))
    return pieces


def _embedding(model: GgufFile, layers: range, decides: bool) -> Piece:
    if layers.start == 0:
        return _piece(EMBEDDING, model.tensors[EMBEDDING])
    if decides:
        # Such a stage embeds nothing, so its projection can stand in the embedding's place: llama.cpp projects with
        # the embedding where there is no separate head, and the embedding's own bytes need not be stored.
        return _piece(EMBEDDING, model.tensors.get(HEAD, model.tensors[EMBEDDING]))
    whole = model.tensors[EMBEDDING]
    rows = min(MIDDLE_VOCABULARY, whole.dims[1])
    return Piece(EMBEDDING, (whole.dims[0], rows), whole.type, whole.offset, whole.n_bytes // whole.dims[1] * rows)


def _piece(name: str, tensor: Tensor) -> Piece:
    return Piece(name, tensor.dims, tensor.type, tensor.offset, tensor.n_bytes)


def _values(model: GgufFile, layers: range, vocabulary: int) -> dict[str, Value]:
    every = layer_values(model, layers)
    values = {key: value for key, value in every.items() if not key.startswith("tokenizer.")}
    values[f"{architecture_of(model)}.vocab_size"] = number(vocabulary)
    values["tokenizer.ggml.model"] = text("no_vocab")
    values["mpispec.layers"] = text(f"{layers.start}-{layers.stop}/{layer_count(model)}")
    return values


def _picked(value: Value, layers: Sequence[int]) -> Value:
    """Keep the elements of some layers of a per-layer array of numbers."""
    if value.element_type is ValueType.STRING:
        return value
    size = (len(value.raw) - 12) // len(value)
    kept = b"".join(value.raw[12 + layer * size : 12 + (layer + 1) * size] for layer in layers)
    return Value(value.type, memoryview(bytes(value.raw[:4]) + struct.pack("<Q", len(layers)) + kept))


def _raw_text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw
