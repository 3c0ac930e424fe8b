"""Attention of a torch stage: one function for all models, over cells with a position and a set of sequence ids.

Which cells a row attends to is the same for all layers and made once a pass; keys and values lie in a store.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mpispec.compute.torch_linear import with_threads

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

    @property
    def num_rows(self) -> int:
        """Rows that have cells."""
        return len(self.distance)

    @property
    def batch(self) -> int:
        """Each row is a batch of its own, with one query; those of a tile are queries of one batch."""
        return 1 if self.is_tile else len(self.distance)

    def mask(self, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """Return what is added to scores, [rows, 1, 1, length], of a tile [rows, length]: 0 for what a row sees.

        It sees all before it, or as many positions as its window has. Torch would make the same of a mask of bools,
        in each layer.
        """
        if window not in self._masks:
            seen = self.distance >= 0
            seen = seen if window is None else seen & (self.distance < window)
            mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)
            self._masks[window] = mask if self.is_tile else mask[:, None, None]
        return self._masks[window]


class Store:
    """Keys or values of all layers, [cycles, cells, heads, width] each, made when a layer first has some.

    Cells are counted through all cycles.
    """

    def __init__(self, num_cycles: int, num_cells: int) -> None:
        self._shape = (num_cycles, num_cells)
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        """By layer what it has, and the same as [cells of all cycles, heads, 1, width]."""

    def write(self, layer: int, new: torch.Tensor, attended: Attended) -> torch.Tensor:
        """Write what is new, [1, heads, rows, width], for as many rows as have cells.

        Return what lies on the paths of the rows in the order of positions, [batch, heads, length, width].
        """
        if layer not in self._layers:
            shape = (*self._shape, new.shape[1], new.shape[3])
            kept = torch.zeros(shape, dtype=new.dtype, device=new.device)
            self._layers[layer] = kept, kept.flatten(0, 1)[:, :, None]
        kept, cells = self._layers[layer]
        written = new.narrow(2, 0, attended.num_rows).permute(2, 1, 0, 3)
        if isinstance(attended.cells, slice):
            cells.narrow(0, attended.cells.start, attended.num_rows).copy_(written)
        else:
            cells[attended.cells] = written
        found = self._on_paths(kept, cells, attended.paths)
        return found if len(found) == attended.batch else found.expand(attended.batch, -1, -1, -1)

    def _on_paths(
        self, kept: torch.Tensor, cells: torch.Tensor, paths: torch.Tensor | tuple[slice, slice]
    ) -> torch.Tensor:
        """Return [paths, heads, length, width] of what a layer has."""
        if isinstance(paths, torch.Tensor):
            found = kept.flatten(0, 1).index_select(0, paths.flatten())
            return found.view(*paths.shape, *kept.shape[2:]).transpose(1, 2)
        cycles, among = paths
        if cycles.stop - cycles.start > 1:
            return kept[paths].transpose(1, 2)
        start = cycles.start * self._shape[1] + among.start
        return cells.narrow(0, start, among.stop - among.start).permute(2, 1, 0, 3)


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
    keys = mpispec.keys.write(module.layer_idx, key, mpispec)
    values = mpispec.values.write(module.layer_idx, value, mpispec)
    mask, is_tile = mpispec.mask(options.get("sliding_window"), query.dtype), mpispec.is_tile
    queries = query.narrow(2, 0, mpispec.num_rows)
    queries = queries if is_tile else queries.permute(2, 1, 0, 3)
    if options.get("softcap") is None and options.get("s_aux") is None:
        # Several threads share the keys of a row, and which of them depends on its place in the batch.
        with nullcontext() if is_tile else with_threads(1):
            out = functional.scaled_dot_product_attention(
                queries, keys, values, mask, scale=options.get("scaling"), enable_gqa=key.shape[1] != query.shape[1]
            )
    else:
        out = _with_extras(queries, keys, values, mask, options)
    found = out.transpose(1, 2) if is_tile else out.permute(2, 0, 1, 3)
    missing = query.shape[2] - found.shape[1]
    return torch.cat([found, found[:, -1:].expand(-1, missing, -1, -1)], 1) if missing else found, None


def filled(rows: torch.Tensor, size: int) -> torch.Tensor:
    """Return [size, ...]: the rows, then the last of them again."""
    missing = size - len(rows)
    return torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])]) if missing else rows


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
    scores = scores + mask
    if sinks is not None:
        column = sinks.reshape(1, -1, 1, 1).expand(scores.shape[0], -1, scores.shape[2], 1)
        scores = torch.cat([scores, column.to(scores.dtype)], -1)
    weights = torch.softmax(scores, -1, dtype=torch.float32).to(value.dtype)
    return (weights[..., :-1] if sinks is not None else weights) @ value


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attend)
