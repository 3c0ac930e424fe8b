"""Folders of safetensors on torch, by transformers' model classes. Both are loaded where a model is, nowhere before."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mpispec.compute.base import Arithmetic, Opened, Part, StageModel, StageSize
from mpispec.compute.hf_vocabulary import HfVocabulary
from mpispec.core.traits import BackendTraits, Prefill, PrefillRun
from mpispec.models import hf_folder, token_lists
from mpispec.models.errors import ModelError
from mpispec.models.registry import ModelSummary

TILE = 64
"""Rows of a run of a prompt that goes through the layers as one; draft tokens come in runs of fewer."""


@dataclass(frozen=True, kw_only=True)
class Tiles(Prefill):
    """Prompts are read in whole tiles as far as they go, and the rest as draft tokens are."""

    chunk: int = TILE

    def next_run(self, num_prompt: int, start: int, num_rows: int) -> PrefillRun:
        """See `Prefill`. Tiles begin at multiples of their size, so that a row's bits depend on the prompt alone."""
        if start % TILE == 0 and start + TILE <= num_prompt:
            return PrefillRun(TILE, TILE)
        return PrefillRun(min(num_rows, TILE - 1), min(num_rows, TILE - 1))


class TorchBackend:
    """A `Backend`."""

    name = "torch"
    most_rows = TILE
    is_order_exact = True
    gives_way = False

    def check_here(self) -> None:
        """See `Backend`."""
        for package in ("torch", "transformers"):
            if importlib.util.find_spec(package) is None:
                raise ModelError(
                    f"Models in Hugging Face's form need {package}; run: pip install 'mpispec[torch]', "
                    "or name a model in GGUF format."
                )

    def inspect(self, path: Path) -> ModelSummary:
        """See `Backend`."""
        return hf_folder.inspect(path)

    def check_cuts(self, model: ModelSummary, parts: Iterable[range], insist: bool) -> None:
        """See `Backend`. The class itself is tried when a stage is opened."""
        del insist
        for layers in parts:
            if not 0 <= layers.start < layers.stop <= model.layers:
                raise ModelError(
                    f"{layers.start}:{layers.stop} is no range of the {model.layers} layers of {model.path}; "
                    "choose another."
                )
            if layers.start % model.unit:
                raise ModelError(
                    f"{model.path} applies the same {model.unit} layers {model.num_cycles} times, so a cut before "
                    f"layer {layers.start} would divide a cycle; cut at multiples of {model.unit}."
                )

    def num_shared_tokens(self, first: ModelSummary, second: ModelSummary) -> int:
        """See `Backend`."""
        return token_lists.num_shared_tokens(first, second)

    def traits(self, model: ModelSummary, *, keeps_order: bool, is_row_exact: bool) -> BackendTraits:
        """See `Backend`. Rows attend in the order of positions, so the order of cells has no part in their bits.

        Where rows are not exact nothing is promised of the text, and several rows a run are what GPUs are for.
        """
        del model, keeps_order
        return BackendTraits(is_row_exact=is_row_exact, prefill=Tiles())

    def arithmetic(self, size: StageSize) -> Arithmetic:
        """See `Backend`."""
        import torch  # noqa: PLC0415  takes seconds

        from mpispec.compute.torch_stage import device_and_numbers  # noqa: PLC0415

        device, dtype = device_and_numbers(size.torch)
        on_cpu = device.type == "cpu"
        place = torch.backends.cpu.get_cpu_capability() if on_cpu else torch.cuda.get_device_name(device)
        numbers = str(dtype).removeprefix("torch.")
        if size.torch.quantization is not None:
            numbers += f" with {size.torch.quantization} weights"
        return Arithmetic(f"torch {torch.__version__} on {place}, {size.threads} threads", numbers=numbers)

    def buffer_bytes(self, model: ModelSummary, part: Part, size: StageSize) -> int | None:
        """See `Backend`: numbers and device are chosen when torch is loaded."""
        return None

    def open_stage(
        self, model: ModelSummary, layers: range, size: StageSize, *, insist: bool = False, has_exit: bool = False
    ) -> StageModel:
        """See `Backend`."""
        return self.open_stages(model, [Part(layers, has_exit)], size, insist).stages[0]

    def open_stages(self, model: ModelSummary, parts: Sequence[Part], size: StageSize, insist: bool) -> Opened:
        """See `Backend`. Those of a model that applies its layers several times share the weights."""
        self._check_all_here(size)
        from mpispec.compute import torch_admission, torch_stage  # noqa: PLC0415  takes seconds

        if not insist and any(len(part.layers) < model.layers or part.has_exit for part in parts):
            torch_admission.check(model.path, size.torch.runs_code)
        if model.num_cycles == 1:
            return Opened(
                [torch_stage.open_stage(model.path, part.layers, model.layers, size, part.has_exit) for part in parts]
            )
        opened = torch_stage.open_cycles(model.path, parts, model.unit, model.layers, size)
        return Opened([*opened], torch_stage.forward_together if len(parts) > 1 else None)

    def open_tokenizer(self, path: Path) -> HfVocabulary:
        """See `Backend`."""
        self.check_here()
        return HfVocabulary(path)

    def _check_all_here(self, size: StageSize) -> None:
        self.check_here()
        if size.torch.quantization is not None and importlib.util.find_spec("torchao") is None:
            raise ModelError("--quantization needs torchao; run: pip install 'mpispec[torchao]', or leave it out.")
        for library in ("torchao", "torch.utils._pytree"):  # complain of what is not used, as soon as both are there
            logging.getLogger(library).setLevel(logging.ERROR)
