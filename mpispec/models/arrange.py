"""A whole model whose layers are those of another: fewer of them, or each followed by quiet echoes of itself.

Drafts that skip layers, exits after a layer and deep benchmark targets (docs/models.md, Benchmark pairs) are all such
arrangements. No tensor is quantised again: every change works on the stored blocks.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpispec.models import cut, gguf_file, registry
from mpispec.models.errors import ModelError
from mpispec.models.gguf_file import GgufFile, Tensor
from mpispec.models.gguf_types import BLOCKS
from mpispec.models.part import Piece, assemble, layer_values, text
from mpispec.models.registry import BLOCK

SCALES: dict[str, tuple[str, tuple[int, ...]]] = {
    "F32": ("<f4", (0,)),
    "F16": ("<f2", (0,)),
    "Q4_0": ("<f2", (0,)),
    "Q4_1": ("<f2", (0, 2)),
    "Q5_0": ("<f2", (0,)),
    "Q5_1": ("<f2", (0, 2)),
    "Q8_0": ("<f2", (0,)),
    "Q4_K": ("<f2", (0, 2)),
    "Q5_K": ("<f2", (0, 2)),
    "Q6_K": ("<f2", (208,)),
}
"""Tensor type -> kind of the factors of a block and where they lie in it: a block's numbers are linear in them."""
_WRITERS = ("attn_output.", "ffn_down.")
"""Beginnings of the tensors whose products are added to the residual stream."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of an arrangement."""

    source: int
    """Index of the layer in the model it is taken from."""
    noise: float | None = None
    """None: the layer as it is. Otherwise an echo: it computes as much, but what it adds to the residual stream is
    multiplied by this and shuffled, so it is noise of that size relative to the layer's own contribution."""


def arrange(source: Path, layers: Sequence[Layer], destination: Path, name: str) -> None:
    """Write a model that consists of `layers`, with the embedding, norm, head and tokenizer of `source`.

    `name` becomes its `general.name`. Raises ModelError: only certified architectures whose layers do not depend on
    their index can be arranged.
    """
    model = gguf_file.read(source)
    _check(model, layers)
    pieces = [_piece(name, tensor) for name, tensor in model.tensors.items() if not BLOCK.fullmatch(name)]
    of_layer: dict[int, list[tuple[str, Tensor]]] = {}
    for title, tensor in model.tensors.items():
        if match := BLOCK.fullmatch(title):
            of_layer.setdefault(int(match[1]), []).append((match[2], tensor))
    for index, layer in enumerate(layers):
        pieces += [_layer_piece(index, layer, rest, tensor) for rest, tensor in of_layer[layer.source]]
    values = layer_values(model, [layer.source for layer in layers])
    values["general.name"] = text(name)
    cut.write(model, assemble(model, pieces, values), destination)


def _check(model: GgufFile, layers: Sequence[Layer]) -> None:
    count = registry.layer_count(model)
    registry.check_cut(model, range(count))
    if reason := registry.refusal(model):
        raise ModelError(f"{reason} Choose another model.")
    if registry.unit(model) != 1:
        raise ModelError(f"What a layer of {model.path} does depends on its index; choose a llama or qwen model.")
    if not 1 <= len(layers) <= registry.MAX_LAYERS:
        raise ModelError(f"{len(layers)} layers are asked for; llama.cpp takes 1 to {registry.MAX_LAYERS}.")
    if not all(0 <= layer.source < count for layer in layers):
        raise ModelError(f"{model.path} has layers 0 to {count - 1} only; choose among these.")


def _piece(name: str, tensor: Tensor) -> Piece:
    return Piece(name, tensor.dims, tensor.type, tensor.offset, tensor.n_bytes)


def _layer_piece(index: int, layer: Layer, rest: str, tensor: Tensor) -> Piece:
    name = f"blk.{index}.{rest}"
    if layer.noise is None or not rest.startswith(_WRITERS):
        return _piece(name, tensor)
    kind = BLOCKS[tensor.type].name
    if kind not in SCALES:
        raise ModelError(f"{tensor.name} is stored as {kind}, which cannot be scaled; use a model in Q4_0 or F16.")
    change = functools.partial(echo, tensor=tensor, noise=layer.noise, seed=zlib.crc32(name.encode()))
    return Piece(name, tensor.dims, tensor.type, tensor.offset, tensor.n_bytes, change)


def echo(raw: bytes, tensor: Tensor, noise: float, seed: int) -> bytes:
    """Return the bytes of `tensor` with its numbers multiplied by `noise` and its rows shuffled.

    A row makes one number of the residual stream, so shuffled rows add a vector of the same length in a direction that
    means nothing. `seed` makes the order; a bias is one number a row.
    """
    block = BLOCKS[tensor.type]
    kind, offsets = SCALES[block.name]
    factor = np.dtype(kind)
    blocks = np.frombuffer(raw, np.uint8).reshape(-1, block.n_bytes).copy()
    for offset in offsets:
        field = blocks[:, offset : offset + factor.itemsize]
        scaled = np.ascontiguousarray(field).view(factor) * factor.type(noise)
        field[:] = scaled.view(np.uint8)
    order = np.random.default_rng(seed).permutation(tensor.dims[-1])
    return blocks.reshape(tensor.dims[-1], -1)[order].tobytes()
