"""A copy of a model whose numbers are all float32, to separate what quantisation does from all else.

With quantised weights llama.cpp rounds activations to 8 bit in front of every product, so a last bit that differs can
become a whole step; with float32 it stays a last bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mpispec.models import cut, gguf_file
from mpispec.models.errors import ModelError
from mpispec.models.gguf_file import Tensor
from mpispec.models.gguf_types import BLOCKS
from mpispec.models.part import Piece, assemble, number, text

_F32 = next(kind for kind, block in BLOCKS.items() if block.name == "F32")
_FILE_TYPE = "general.file_type"

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


def widen(source: Path, destination: Path, name: str) -> None:
    """Write a model with the same numbers as float32. `name` becomes its `general.name`.

    Raises ModelError where a tensor is stored in a form that is not in `WIDENED`.
    """
    model = gguf_file.read(source)
    values = {**model.values, "general.name": text(name), _FILE_TYPE: number(0)}
    cut.write(model, assemble(model, [_piece(tensor) for tensor in model.tensors.values()], values), destination)


def _piece(tensor: Tensor) -> Piece:
    if tensor.type == _F32:
        return Piece(tensor.name, tensor.dims, tensor.type, tensor.offset, tensor.n_bytes)
    block = BLOCKS[tensor.type]
    if block.name not in WIDENED:
        raise ModelError(
            f"{tensor.name} is stored as {block.name}, which cannot be widened; use a model in one of "
            f"{', '.join(WIDENED)}."
        )
    count = tensor.n_bytes // block.n_bytes * block.elements
    change = functools.partial(widened, kind=tensor.type)
    return Piece(tensor.name, tensor.dims, _F32, tensor.offset, 4 * count, change, source_bytes=tensor.n_bytes)


def widened(raw: bytes, kind: int) -> bytes:
    """Return stored blocks of a tensor type, a key of `BLOCKS` named in `WIDENED`, as float32."""
    block = BLOCKS[kind]
    blocks = np.frombuffer(raw, np.uint8).reshape(-1, block.n_bytes)
    return WIDENED[block.name](blocks).astype("<f4").tobytes()


def _factors(blocks: Bytes, offset: int) -> Floats:
    """Return a half-precision factor of each block: float32 [blocks, 1]."""
    return np.ascontiguousarray(blocks[:, offset : offset + 2]).view("<f2").astype(np.float32)


def _nibbles(blocks: Bytes, offset: int) -> Floats:
    """Return the 32 numbers of 4 bit of each block, 0 to 15; the low halves of the bytes come first."""
    pairs = blocks[:, offset : offset + 16]
    return np.concatenate([pairs & 0x0F, pairs >> 4], axis=1).astype(np.float32)


def _f16(blocks: Bytes) -> Floats:
    return _factors(blocks, 0)


def _bf16(blocks: Bytes) -> Floats:
    wide = np.ascontiguousarray(blocks).view("<u2").astype(np.uint32) << 16
    return wide.view(np.float32)


def _q4_0(blocks: Bytes) -> Floats:
    return _factors(blocks, 0) * (_nibbles(blocks, 2) - np.float32(8))


def _q4_1(blocks: Bytes) -> Floats:
    return _factors(blocks, 0) * _nibbles(blocks, 4) + _factors(blocks, 2)


def _q8_0(blocks: Bytes) -> Floats:
    return _factors(blocks, 0) * np.ascontiguousarray(blocks[:, 2:]).view(np.int8).astype(np.float32)


WIDENED: dict[str, Callable[[Bytes], Floats]] = {
    "F16": _f16,
    "BF16": _bf16,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q8_0": _q8_0,
}
"""Tensor type -> the numbers of its blocks."""
