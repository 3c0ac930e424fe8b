"""A copy of a float32 model whose rows are multiples of 256 numbers, as K-quants need them, and that computes the same.

Zeros are added: to the residual stream, to the hidden layer, and whole heads of attention whose output is multiplied by
zero. Norms divide by the root of a mean over more numbers then, which their weights and their epsilon make up for.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mpispec.models import cut, gguf_file
from mpispec.models.errors import ModelError
from mpispec.models.gguf_file import GgufFile, Tensor, Value
from mpispec.models.gguf_types import BLOCKS, ValueType
from mpispec.models.part import Piece, assemble, number, text
from mpispec.models.registry import architecture_of

Floats = NDArray[np.float32]
_F32 = next(kind for kind, block in BLOCKS.items() if block.name == "F32")
_BLOCK = 256
"""Numbers of a block of a K-quant."""


@dataclass(frozen=True, slots=True)
class _Sizes:
    """What changes: each before and after."""

    width: tuple[int, int]
    hidden: tuple[int, int]
    heads: tuple[int, int]
    groups: int
    """Heads of keys and values."""


def pad(source: Path, destination: Path, name: str) -> None:
    """Write a padded copy of a llama model stored as float32. `name` becomes its `general.name`.

    Raises ModelError for another architecture or storage, and where heads cannot be padded in proportion.
    """
    model = gguf_file.read(source)
    architecture = architecture_of(model)
    if architecture != "llama" or not all(_is_known(name, tensor) for name, tensor in model.tensors.items()):
        raise ModelError(f"{source} is no llama model in float32; make one with scripts/make-pair floats.")
    sizes = _sizes(model)
    values = {
        **model.values,
        "general.name": text(name),
        f"{architecture}.embedding_length": number(sizes.width[1]),
        f"{architecture}.feed_forward_length": number(sizes.hidden[1]),
        f"{architecture}.attention.head_count": number(sizes.heads[1]),
        f"{architecture}.attention.layer_norm_rms_epsilon": _epsilon(model, sizes),
    }
    pieces = [_piece(title, tensor, sizes) for title, tensor in model.tensors.items()]
    cut.write(model, assemble(model, pieces, values), destination)


def _is_known(name: str, tensor: Tensor) -> bool:
    return tensor.type == _F32 and name.endswith(".weight")


def _sizes(model: GgufFile) -> _Sizes:
    width, hidden, heads = (
        int(model.values[f"llama.{key}"].decode())
        for key in ("embedding_length", "feed_forward_length", "attention.head_count")
    )
    groups = model.get("llama.attention.head_count_kv", int) or heads
    wide = -(-width // _BLOCK) * _BLOCK
    more = heads * wide // width
    if heads * wide % width or more % groups:
        raise ModelError(f"{model.path} has {heads} heads at width {width}, which do not fit width {wide}.")
    return _Sizes((width, wide), (hidden, -(-hidden // _BLOCK) * _BLOCK), (heads, more), groups)


def _epsilon(model: GgufFile, sizes: _Sizes) -> Value:
    before = float(model.values["llama.attention.layer_norm_rms_epsilon"].decode())
    after = before * sizes.width[0] / sizes.width[1]
    return Value(ValueType.FLOAT32, memoryview(struct.pack("<f", after)))


def _piece(name: str, tensor: Tensor, sizes: _Sizes) -> Piece:
    change, dims = _change(name, tensor.dims, sizes)
    changed = functools.partial(_changed, dims=tensor.dims, change=change)
    return Piece(name, dims, _F32, tensor.offset, 4 * math.prod(dims), changed, source_bytes=tensor.n_bytes)


def _changed(raw: bytes, dims: tuple[int, ...], change: Callable[[Floats], Floats]) -> bytes:
    return change(np.frombuffer(raw, "<f4").reshape(dims[::-1])).astype("<f4").tobytes()


def _change(name: str, dims: tuple[int, ...], sizes: _Sizes) -> tuple[Callable[[Floats], Floats], tuple[int, ...]]:
    """Return what makes a tensor's new numbers, and its new dimensions, the innermost first."""
    kind = name.split(".")[-2]
    if kind.endswith("norm"):
        scale = math.sqrt(sizes.width[0] / sizes.width[1])
        return (lambda old: scale * _filled(old, (sizes.width[1],))), (sizes.width[1],)
    new = tuple({sizes.width[0]: sizes.width[1], sizes.hidden[0]: sizes.hidden[1]}.get(dim, dim) for dim in dims)
    if kind == "attn_q":
        return (lambda old: _filled(_with_heads(old, sizes), new[::-1])), new
    if kind == "attn_output":
        return (lambda old: _filled(_with_heads(old.T, sizes).T, new[::-1])), new
    if kind in ("token_embd", "output", "attn_k", "attn_v"):
        new = (sizes.width[1], dims[1])
    return (lambda old: _filled(old, new[::-1])), new


def _filled(old: Floats, shape: tuple[int, ...]) -> Floats:
    """Return an array of that shape that begins with the old one and is zero elsewhere."""
    new = np.zeros(shape, np.float32)
    new[tuple(slice(length) for length in old.shape)] = old
    return new


def _with_heads(old: Floats, sizes: _Sizes) -> Floats:
    """Add rows of zero, whole heads, to those of each group: float32 [heads * head, width]."""
    heads = old.reshape(sizes.groups, sizes.heads[0] // sizes.groups, -1, old.shape[1])
    more = _filled(heads, (sizes.groups, sizes.heads[1] // sizes.groups, *heads.shape[2:]))
    return more.reshape(-1, old.shape[1])
