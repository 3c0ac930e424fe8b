"""A layer range of a Hugging Face model on torch.

The stage is transformers' own class for the model, of which layers elsewhere are left out; its attention is ours, over
cells that carry a position and a set of sequence ids, so that trees, cancels and several requests work as they do
everywhere (the same seam is used by vLLM's and SGLang's transformers backends).

**Exact.** On a CPU a float32 row alone and the same row among others differ in the last bits: libraries choose another
kernel for another number of rows. So rows go through the layers eight at a time, filled up where there are fewer, and
each attends by itself to the keys of its own path, in the order of positions, filled up to a multiple of 512. Measured
with torch 2.13: the same bits for any neighbours, lengths and places. A run of `TILE` rows is part of a prompt, whose
runs depend on the prompt alone; it goes through as one.

**Fast**, for other numbers and devices: rows go through as they come, and their bits may depend on each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch.nn import functional
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mpispec.compute.base import Cancelled, ComputeError, Floats, StageSize
from mpispec.compute.torch_backend import TILE
from mpispec.compute.torch_cells import Cells, padded
from mpispec.core.messages import CacheOp, Row, Run
from mpispec.models.errors import ModelError

_ROWS = 8
"""Rows that go through the layers together."""
_STEP = 512
"""Attended positions are filled up to a multiple of this."""
_FAST_STEP = 64
"""The same where bits may depend on it: shapes are few, and little is computed in vain."""
_SPARE_CELLS = 512
"""Cells beyond the context, for draft tokens in flight."""
_ATTENTION = "mpispec"


class _Skipped(torch.nn.Module):
    """A part of the model that another rank holds."""

    def __init__(self, other: torch.nn.Module) -> None:
        super().__init__()
        self.attention_type = getattr(other, "attention_type", None)

    def forward(self, hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return hidden_states


@dataclass(slots=True)
class _Attended:
    """What the rows of one pass write and see; the same for all layers."""

    cells: torch.Tensor
    """int64 [rows]: where their keys and values go."""
    paths: torch.Tensor
    """int64 [paths, length]: cell of each position; one path for each row, or one that all of them lie on."""
    distance: torch.Tensor
    """int64 [rows, length]: how far each position is behind the row; negative where it is ahead."""
    is_tile: bool
    """Whether all rows lie on one path and attend together: a tile of a prompt, or any where bits may depend on it."""
    keys: _Store
    values: _Store


class _Store:
    """Keys or values of all layers, [cells, heads, width] each, made when a layer first has some."""

    def __init__(self, num_cells: int) -> None:
        self._num_cells = num_cells
        self._layers: dict[int, torch.Tensor] = {}

    def write(self, layer: int, new: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        """Write what is new, [1, heads, rows, width], for as many rows as have cells; return what the layer has."""
        kept = self._layers.get(layer)
        if kept is None:
            shape = (self._num_cells, new.shape[1], new.shape[3])
            kept = self._layers[layer] = torch.zeros(shape, dtype=new.dtype, device=new.device)
        kept[cells] = new[0, :, : len(cells)].transpose(0, 1)
        return kept


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    mpispec: _Attended,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Write keys and values of the rows, and attend over their paths.

    `query` is [1, heads, rows, width], `key` and `value` have the key-value heads; returns [1, rows, heads, width].
    Rows beyond those that have cells fill the pass up; theirs is the last one's output. `options` are those of
    transformers: `scaling`, `sliding_window`, `softcap`, and `s_aux` for sinks. There is no mask, since transformers
    makes none for an attention function that it does not know.
    """
    rows, window = len(mpispec.cells), options.get("sliding_window")
    seen = mpispec.distance >= 0
    if window is not None:
        seen &= mpispec.distance < window
    keys = _on_paths(mpispec.keys.write(module.layer_idx, key, mpispec.cells), mpispec)
    values = _on_paths(mpispec.values.write(module.layer_idx, value, mpispec.cells), mpispec)
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
    missing = query.shape[2] - len(found)
    return (torch.cat([found, found[-1:].expand(missing, -1, -1)]) if missing else found)[None], None


def _on_paths(stored: torch.Tensor, attended: _Attended) -> torch.Tensor:
    """Return [rows, heads, length, width] of what a layer has stored, in the order of positions; one for a tile."""
    num_paths, length = attended.paths.shape
    found = stored.index_select(0, attended.paths.flatten()).view(num_paths, length, *stored.shape[1:]).transpose(1, 2)
    batch = 1 if attended.is_tile else len(attended.cells)
    return found.expand(batch, -1, -1, -1)


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


ALL_ATTENTION_FUNCTIONS.register(_ATTENTION, _attend)


class TorchStage:
    """A `StageModel`."""

    def __init__(self, model: Any, *, first: bool, last: bool, context: int, sequences: int) -> None:
        """Compute with a model that was cut and lies on its device; see `StageSize` for the numbers."""
        self._model, self._first, self._last = model, first, last
        self._device = model.device
        self._is_exact = model.device.type == "cpu" and model.dtype == torch.float32
        self._sequences = sequences
        num_cells = context + _SPARE_CELLS
        self._cells = Cells(num_cells, sequences)
        self._keys, self._values = _Store(num_cells), _Store(num_cells)
        config = model.config.get_text_config()
        self.width, self.vocabulary = int(config.hidden_size), int(config.vocab_size)

    @property
    def num_weights(self) -> int:
        """Numbers held, each once."""
        return sum(weights.numel() for weights in self._model.parameters())

    def apply(self, cache_ops: Sequence[CacheOp]) -> None:
        """See `StageModel`. Raises ComputeError."""
        for cache_op in cache_ops:
            self._cells.apply(cache_op)

    def forward(self, run: Run, activations: Floats | None, cancelled: Cancelled) -> Floats | None:
        """See `StageModel`. Between two passes of rows it looks whether to give up. Raises ComputeError."""
        self._check(run.rows, activations)
        size = _ROWS if self._is_exact and len(run.rows) != TILE else TILE
        cells = self._cells.place(run)
        outputs: list[NDArray[np.float32]] = []
        for start in range(0, len(run.rows), size):
            if cancelled():
                return None
            part = run._replace(rows=run.rows[start : start + size])
            given = None if activations is None else activations[start : start + size]
            filled = size if self._is_exact else len(part.rows)
            outputs.append(self._pass(part, cells[start : start + size], given, filled))
        return np.concatenate(outputs)

    def close(self) -> None:
        """Free weights and cache."""
        del self._model, self._keys, self._values

    def _check(self, rows: Sequence[Row], activations: Floats | None) -> None:
        tokens = [row.token for row in rows]
        if not rows or not all(0 <= row.seq < self._sequences and row.pos >= 0 for row in rows):
            raise ComputeError(
                f"A run names a sequence beyond the {self._sequences} of this stage or a position that does not exist, "
                "or has no rows."
            )
        if self._first and not 0 <= min(tokens) <= max(tokens) < self.vocabulary:
            raise ComputeError(f"A row's token is outside the vocabulary of {self.vocabulary}.")
        if not self._first and (activations is None or activations.shape != (len(rows), self.width)):
            raise ComputeError(f"A run of {len(rows)} rows came without its {len(rows)} x {self.width} activations.")

    @torch.inference_mode()
    def _pass(self, run: Run, cells: NDArray[np.int64], given: Floats | None, size: int) -> NDArray[np.float32]:
        """Compute up to `size` rows; rows that fill it up repeat the last one and are thrown away."""
        rows = run.rows
        last = max(row.pos for row in rows)
        step = _STEP if self._is_exact else _FAST_STEP
        paths = self._cells.paths(run, (last // step + 1) * step)
        distance = np.array([row.pos for row in rows])[:, None] - np.arange(paths.shape[1])
        is_shared = bool(np.all((paths == paths[-1]) | (distance < 0)))
        positions = self._tensor(padded([row.pos for row in rows], size))
        attended = _Attended(
            self._tensor(cells),
            self._tensor(paths[-1:] if is_shared else paths),
            self._tensor(distance),
            is_shared and (size == TILE or not self._is_exact),
            self._keys,
            self._values,
        )
        inputs = self._inputs(rows, given, size)
        extras = {"position_ids": positions[None], "use_cache": False, "mpispec": attended}
        if not self._last:
            hidden = self._model.base_model(**inputs, **extras).last_hidden_state[0, : len(rows)]
            return np.asarray(hidden.float().cpu().numpy())
        deciding = [index for index, row in enumerate(rows) if row.decide]
        if not deciding:
            self._model.base_model(**inputs, **extras)
            return np.empty((0, self.vocabulary), np.float32)
        # A projection of eight rows has other bits than one of a single row: all go, and some are thrown away.
        is_whole = self._is_exact and size == _ROWS
        kept = 0 if is_whole else self._tensor(np.array(deciding))
        logits = self._model(**inputs, **extras, logits_to_keep=kept).logits[0]
        chosen = logits[deciding] if is_whole else logits
        return np.asarray(chosen.float().cpu().numpy())

    def _inputs(self, rows: Sequence[Row], given: Floats | None, size: int) -> dict[str, torch.Tensor]:
        if self._first:
            return {"input_ids": self._tensor(padded([row.token for row in rows], size))[None]}
        assert given is not None
        filled = np.concatenate([given, np.repeat(given[-1:], size - len(given), 0)])
        return {"inputs_embeds": torch.from_numpy(filled).to(self._device, self._model.dtype)[None]}

    def _tensor(self, array: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)


def open_stage(folder: Path, layers: range, num_layers: int, size: StageSize) -> TorchStage:
    """Load the layers of a model folder. Raises ModelError."""
    torch.set_num_threads(size.threads)
    device = _device_of(size.device)
    automatic = "float32" if device.type == "cpu" else "bfloat16"
    dtype = getattr(torch, automatic if size.dtype == "auto" else size.dtype)
    try:
        model = load(folder, layers, num_layers, dtype).to(device)
    except torch.OutOfMemoryError:
        raise ModelError(
            f"{device} has no room for layers {layers.start}-{layers.stop - 1} of {folder.name}; "
            "use more ranks, or --device cpu."
        ) from None
    first, last = layers.start == 0, layers.stop == num_layers
    return TorchStage(model, first=first, last=last, context=size.context, sequences=size.sequences)


def _device_of(name: str) -> torch.device:
    """Return the device of this name. Raises ModelError where there is none."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        is_there = device.type == "cpu" or (device.type == "cuda" and (device.index or 0) < torch.cuda.device_count())
    except RuntimeError:
        is_there = False
    if not is_there:
        raise ModelError(
            f"--device {name} is not there for torch (GPUs: {torch.cuda.device_count()}); use cpu or auto."
        )
    return device


def read_config(folder: Path) -> Any:
    """Return the config of a model folder. Raises ModelError."""
    transformers.utils.logging.set_verbosity_error()
    try:
        return transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"transformers does not know the model of {folder}: {_first_sentence(error)}.") from error


def load(folder: Path, layers: range, num_layers: int, dtype: torch.dtype) -> Any:
    """Load the layers of a model, and nothing else of it, through transformers. Raises ModelError."""
    transformers.utils.logging.disable_progress_bar()
    cls = part_of(class_of(read_config(folder)), layers, num_layers)
    try:
        model = cls.from_pretrained(
            folder, dtype=dtype, attn_implementation=_ATTENTION, local_files_only=True, use_safetensors=True
        )
    except Exception as error:  # transformers, safetensors and torch have each their own
        raise ModelError(f"transformers cannot load {folder}: {_first_sentence(error)}; check the folder.") from error
    return model.eval()


def _first_sentence(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(".")


def class_of(config: Any) -> Any:
    """Return the class of the language model with such a config. Raises ModelError where transformers has none."""
    try:
        return transformers.AutoModelForCausalLM._model_mapping[type(config)]
    except KeyError:
        raise ModelError(f"transformers has no language model of type {config.model_type}; choose another.") from None


def part_of(cls: Any, layers: range, num_layers: int) -> Any:
    """Return a class whose instances hold the layers alone, under their own numbers, and what the ends need.

    The embedding stays on the first part, and on the last where the projection uses its weights; norm and projection
    stay on the last.
    """
    is_first, is_last = layers.start == 0, layers.stop == num_layers

    def build(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        cls.__init__(self, config, *args, **kwargs)
        base = self.base_model
        for index in range(num_layers):
            if index not in layers:
                base.layers[index] = _Skipped(base.layers[index])
        if not is_first and hasattr(base, "embedding_multiplier"):
            base.embedding_multiplier = 1.0  # granite scales what comes in, which here is no embedding
        if not is_first and not (is_last and config.tie_word_embeddings):
            self.set_input_embeddings(_Skipped(self.get_input_embeddings()))
        if not is_last:
            self.set_output_embeddings(_Skipped(self.get_output_embeddings()))
            for name in _after_layers(base):
                setattr(base, name, _Skipped(getattr(base, name)))

    tied = getattr(cls, "_tied_weights_keys", None) if is_last else None
    return type(cls.__name__, (cls,), {"__init__": build, "__module__": cls.__module__, "_tied_weights_keys": tied})


def _after_layers(base: torch.nn.Module) -> list[str]:
    """Return the names of what a model applies after its layers: all its weights that are no layers or embedding."""
    embedding = base.get_input_embeddings()
    names = []
    for name, child in base.named_children():
        is_norm = "norm" in name or any(True for _ in child.parameters())
        if name != "layers" and child is not embedding and "rotary" not in name and is_norm:
            names.append(name)
    return names
