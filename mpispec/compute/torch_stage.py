"""A layer range of a Hugging Face model on torch.

The stage is transformers' own class for the model, of which layers elsewhere are left out; its attention is ours, over
cells that carry a position and a set of sequence ids, so that trees, cancels and several requests work as they do
everywhere (the same seam is used by vLLM's and SGLang's transformers backends). How rows go through the layers, exact
or fast, is told in `torch_weights`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

from mpispec.compute import huge_pages, torch_looped  # noqa: F401  transformers then knows its type
from mpispec.compute.base import (
    Cancelled,
    ComputeError,
    Floats,
    Part,
    StageOutput,
    StageRun,
    StageSize,
    TorchOptions,
)
from mpispec.compute.llama_traits import SPARE_CELLS
from mpispec.compute.torch_attention import ATTENTION
from mpispec.compute.torch_cells import Cells
from mpispec.compute.torch_files import class_of, first_sentence, quantization_of, read_config, slices
from mpispec.compute.torch_weights import Skipped, Weights, Work, after_layers, take_hidden_states
from mpispec.core.messages import CacheOp, Row, Run
from mpispec.models import hf_folder
from mpispec.models.errors import ModelError
from mpispec.models.hf_folder import StoredTensor


class Kept(NamedTuple):
    """What a rank holds of a model."""

    layers: range
    has_embedding: bool
    has_head: bool
    """Norm and LM head."""


class TorchStage:
    """An `ExitModel`, over weights that it may share with other stages of its rank."""

    def __init__(
        self,
        weights: Weights,
        *,
        first: bool,
        last: bool,
        size: StageSize,
        cycles: range = range(1),
        has_exit: bool = False,
    ) -> None:
        """Compute with weights that lie on their device; `cycles` are counted from the first that the rank holds."""
        self.weights = weights
        self._first, self._last, self._has_exit = first, last, has_exit
        self._cycles = cycles
        self._sequences = size.contexts * size.sequences
        self._cells = Cells(num_cells(size), self._sequences)

    @property
    def num_weights(self) -> int:
        """Numbers held, each once."""
        return self.weights.num_weights

    def apply(self, cache_ops: Sequence[CacheOp]) -> None:
        """See `StageModel`."""
        for cache_op in cache_ops:
            self._cells.apply(cache_op)

    def forward(self, run: Run, activations: Floats | None, cancelled: Cancelled) -> Floats | None:
        """See `StageModel`. Between two passes of rows it looks whether to give up. Raises ComputeError."""
        both = self._outputs(run, activations, cancelled)
        if both is None:
            return None
        return both.logits if self._last else both.hidden

    def forward_and_exit(
        self, run: Run, activations: Floats | None, cancelled: Cancelled
    ) -> tuple[Floats, Floats] | None:
        """See `ExitModel`. Raises ComputeError."""
        both = self._outputs(run, activations, cancelled)
        return None if both is None else (both.hidden, both.logits)

    def close(self) -> None:
        """Free weights and cache."""
        del self.weights, self._cells

    def work(self, run: Run, activations: Floats | None, cancelled: Cancelled) -> Work:
        """Return a run as work for the weights. Raises ComputeError where it cannot be computed."""
        self._check(run.rows, activations)
        return Work(run, activations, cancelled, self._cells, self._cycles, self._last or self._has_exit)

    def _outputs(self, run: Run, activations: Floats | None, cancelled: Cancelled) -> StageOutput | None:
        found: list[StageOutput | None] = self.weights.compute([self.work(run, activations, cancelled)])
        return found[0]

    def _check(self, rows: Sequence[Row], activations: Floats | None) -> None:
        tokens, width, vocabulary = [row.token for row in rows], self.weights.width, self.weights.vocabulary
        if not rows or not all(0 <= row.seq < self._sequences and row.pos >= 0 for row in rows):
            raise ComputeError(
                f"A run names a sequence beyond the {self._sequences} of this stage or a position that does not exist, "
                "or has no rows."
            )
        if self._first and not 0 <= min(tokens) <= max(tokens) < vocabulary:
            raise ComputeError(f"A row's token is outside the vocabulary of {vocabulary}.")
        if not self._first and (activations is None or activations.shape != (len(rows), width)):
            raise ComputeError(f"A run of {len(rows)} rows came without its {len(rows)} x {width} activations.")


def forward_together(runs: Sequence[StageRun]) -> list[StageOutput | None]:
    """Compute runs of stages that share their weights; None for each that was given up. Raises ComputeError."""
    works = [
        run.stage.work(run.run, run.activations, run.cancelled) for run in runs if isinstance(run.stage, TorchStage)
    ]
    first = runs[0].stage
    assert isinstance(first, TorchStage) and len(works) == len(runs), "stages of torch alone share weights"
    found: list[StageOutput | None] = first.weights.compute(works)
    return found


def open_stage(folder: Path, layers: range, num_layers: int, size: StageSize, has_exit: bool = False) -> TorchStage:
    """Load the layers of a model folder. Raises ModelError."""
    first, last = layers.start == 0, layers.stop == num_layers
    tensors = hf_folder.tensors_of(folder, layers, has_exit)
    model = _loaded(folder, Kept(layers, first, last or has_exit), tensors, size)
    weights = Weights(model, num_cells(size), has_head=last or has_exit, has_embedding=first)
    huge_pages.collapse()
    return TorchStage(weights, first=first, last=last, size=size, has_exit=has_exit)


def open_cycles(folder: Path, parts: Sequence[Part], block: int, num_layers: int, size: StageSize) -> list[TorchStage]:
    """Load the `block` layers of a model that applies them several times, once for all stages of a rank.

    `parts` are in layers, counted over all `num_layers` of all cycles; each holds whole cycles. Raises ModelError.
    """
    first_cycle, last_cycle = parts[0].layers.start // block, parts[-1].layers.stop // block
    is_first, is_last = first_cycle == 0, parts[-1].layers.stop == num_layers
    has_head = is_last or any(part.has_exit for part in parts)
    layers = range(parts[0].layers.start, parts[-1].layers.stop)
    tensors = hf_folder.tensors_of(folder, layers, has_head)
    model = _loaded(folder, Kept(range(block), is_first, has_head), tensors, size)
    model.config.num_cycles = 1  # of each pass; the stages count them
    weights = Weights(model, num_cells(size), last_cycle - first_cycle, has_head=has_head, has_embedding=is_first)
    huge_pages.collapse()
    return [
        TorchStage(
            weights,
            first=part.layers.start == 0,
            last=part.layers.stop == num_layers,
            size=size,
            cycles=range(part.layers.start // block - first_cycle, part.layers.stop // block - first_cycle),
            has_exit=part.has_exit,
        )
        for part in parts
    ]


def num_cells(size: StageSize) -> int:
    """Return how many cells a stage has."""
    return size.contexts * (size.context + SPARE_CELLS)


def _loaded(folder: Path, kept: Kept, tensors: Mapping[str, StoredTensor], size: StageSize) -> Any:
    """Return a part of a model on its device. Raises ModelError."""
    torch.set_num_threads(size.threads)
    device, dtype = device_and_numbers(size.torch)
    try:
        return load(folder, kept, tensors, dtype, size.torch).to(device)
    except torch.OutOfMemoryError:
        raise ModelError(
            f"{device} has no room for layers {kept.layers.start}-{kept.layers.stop - 1} of {folder.name}; "
            "use more ranks, or --device cpu."
        ) from None


def device_and_numbers(options: TorchOptions) -> tuple[torch.device, torch.dtype]:
    """Return where and in which numbers a stage with these options computes here. Raises ModelError."""
    device = _device_of(options.device)
    automatic = "float32" if device.type == "cpu" else "bfloat16"
    return device, getattr(torch, automatic if options.dtype == "auto" else options.dtype)


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


def load(
    folder: Path, kept: Kept, tensors: Mapping[str, StoredTensor], dtype: torch.dtype, options: TorchOptions
) -> Any:
    """Load a part of a model from its tensors, through transformers. Raises ModelError."""
    transformers.utils.logging.disable_progress_bar()
    config = read_config(folder, options.runs_code)
    cls = part_of(class_of(config, folder), kept)
    try:
        with ExitStack() as opened:
            model, info = cls.from_pretrained(
                None,
                config=config,
                state_dict=slices(tensors, opened),
                dtype=dtype,
                attn_implementation=ATTENTION,
                output_loading_info=True,
                quantization_config=quantization_of(options.quantization),
            )
    except ModelError:
        raise
    except Exception as error:  # transformers, safetensors and torch have each their own
        raise ModelError(f"transformers cannot load {folder}: {first_sentence(error)}; check the folder.") from error
    if info["missing_keys"]:
        raise ModelError(f"{folder} lacks {min(info['missing_keys'])}; download it again, or choose another model.")
    return model.eval()


def part_of(cls: Any, kept: Kept) -> Any:
    """Return a class whose instances hold the layers alone, under their own numbers, and what the ends need.

    The embedding stays where tokens come in, and where the LM head uses its weights; norm and LM head stay where
    tokens are decided.
    """

    def build(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        cls.__init__(self, config, *args, **kwargs)
        base = self.base_model
        for index in range(len(base.layers)):
            if index not in kept.layers:
                base.layers[index] = Skipped(base.layers[index])
        if not kept.has_embedding:
            take_hidden_states(base)
        if not kept.has_embedding and not (kept.has_head and config.tie_word_embeddings):
            self.set_input_embeddings(Skipped(self.get_input_embeddings()))
        if not kept.has_head:
            self.set_output_embeddings(Skipped(self.get_output_embeddings()))
            for name in after_layers(base):
                setattr(base, name, Skipped(getattr(base, name)))

    tied = getattr(cls, "_tied_weights_keys", None) if kept.has_head else None
    return type(cls.__name__, (cls,), {"__init__": build, "__module__": cls.__module__, "_tied_weights_keys": tied})
