"""Attention of a torch stage: one function for all models, over cells with a position and a set of sequence ids.

Which cells a row attends to is the same for all layers and made once a pass; keys and values lie in a store.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ATTENTION = "mpispec"
"""What transformers knows the function by."""


@dataclass(slots=True)
class Attended:
    """What the rows of one pass write and see; the same for all layers."""

    cells: torch.Tensor | slice
    """int64 [rows]: where their keys and values go; a slice where they lie one after the other."""
    paths: torch.Tensor | tuple[slice, slice]
    """int64 [paths, length]: cell of each position; one path for each row, or one that all of them lie on.

    Cycles and cells where each path lies in the order of positions, in cycle after cycle: nothing has to be gathered.
    """
    distance: torch.Tensor
    """int64 [rows, length]: how far each position is behind the row; negative where it is ahead."""
    is_tile: bool
    """Whether all rows lie on one path and attend together: a tile of a prompt, or any where bits may depend on it."""
    keys: Store
    values: Store
    _masks: dict[int | None, torch.Tensor] = field(default_factory=dict)

    def mask(self, window: int | None) -> torch.Tensor:
        """Return, bool [rows, length], what each row sees: all before it, or as many positions as its window has."""
        if window not in self._masks:
            seen = self.distance >= 0
            self._masks[window] = seen if window is None else seen & (self.distance < window)
        return self._masks[window]


class Store:
    """Keys or values of all layers, [cycles, cells, heads, width] each, made when a layer first has some.

    Cells are counted through all cycles.
    """

    def __init__(self, num_cycles: int, num_cells: int) -> None:
        self._shape = (num_cycles, num_cells)
        self._layers: dict[int, torch.Tensor] = {}

    def write(self, layer: int, new: torch.Tensor, attended: Attended) -> torch.Tensor:
        """Write what is new, [1, heads, rows, width], for as many rows as have cells; return what the layer has."""
        kept = self._layers.get(layer)
        if kept is None:
            shape = (*self._shape, new.shape[1], new.shape[3])
            kept = self._layers[layer] = torch.zeros(shape, dtype=new.dtype, device=new.device)
        kept.flatten(0, 1)[attended.cells] = new[0, :, : len(attended.distance)].transpose(0, 1)
        return kept


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    mpispec: Attended,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Write keys and values of the rows, and attend over their paths.

    `query` is [1, heads, rows, width], `key` and `value` have the key-value heads; returns [1, rows, heads, width].
    Rows beyond those that have cells fill the pass up; theirs is the last one's output. `options` are those of
    transformers: `scaling`, `sliding_window`, `softcap`, and `s_aux` for sinks. There is no mask, since transformers
    makes none for an attention function that it does not know.
    """
    rows, seen = len(mpispec.distance), mpispec.mask(options.get("sliding_window"))
    keys = _on_paths(mpispec.keys.write(module.layer_idx, key, mpispec), mpispec)
    values = _on_paths(mpispec.values.write(module.layer_idx, value, mpispec), mpispec)
    # Each row is a batch of its own, with one query; those of a tile are queries of one batch.
    queries, mask = (
        (query, seen) if mpispec.is_tile else (query[0, :, :rows].transpose(0, 1)[:, :, None], seen[:, None, None])
    )
    if options.get("softcap") is None and options.get("s_aux") is None:
        with _one_thread(not mpispec.is_tile):
            out = functional.scaled_dot_product_attention(
                queries, keys, values, mask, scale=options.get("scaling"), enable_gqa=key.shape[1] != query.shape[1]
            )
    else:
        out = _with_extras(queries, keys, values, mask, options)
    found = out[0].transpose(0, 1) if mpispec.is_tile else out[:, :, 0]
    return filled(found, query.shape[2])[None], None


def filled(rows: torch.Tensor, size: int) -> torch.Tensor:
    """Return [size, ...]: the rows, then the last of them again."""
    missing = size - len(rows)
    return torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])]) if missing else rows


def _on_paths(stored: torch.Tensor, attended: Attended) -> torch.Tensor:
    """Return [rows, heads, length, width] of what a layer has stored, in the order of positions; one for a tile."""
    paths = attended.paths
    if isinstance(paths, tuple):
        found = stored[paths]
    else:
        found = stored.flatten(0, 1).index_select(0, paths.flatten()).view(*paths.shape, *stored.shape[2:])
    batch = 1 if attended.is_tile else len(attended.distance)
    return found.transpose(1, 2).expand(batch, -1, -1, -1)


@contextmanager
def _one_thread(is_on: bool) -> Iterator[None]:
    """Attend on one thread: several share the keys of a row, and which of them depends on its place in the batch."""
    threads = torch.get_num_threads()
    if not is_on or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _with_extras(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, options: Mapping[str, Any]
) -> torch.Tensor:
    """Attend with capped scores (gemma 2) or a sink for each head (gpt-oss), which torch's own function has not."""
    softcap, sinks, scaling = (options.get(name) for name in ("softcap", "s_aux", "scaling"))
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * (scaling if scaling is not None else query.shape[-1] ** -0.5)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.masked_fill(~mask, -torch.inf)
    if sinks is not None:
        column = sinks.reshape(1, -1, 1, 1).expand(scores.shape[0], -1, scores.shape[2], 1)
        scores = torch.cat([scores, column.to(scores.dtype)], -1)
    weights = torch.softmax(scores, -1, dtype=torch.float32).to(value.dtype)
    return (weights[..., :-1] if sinks is not None else weights) @ value


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attend)
