"""Folders of safetensors on torch, by transformers' model classes. Both are loaded where a model is, nowhere before."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mpispec.compute.base import Arithmetic, StageModel, StageSize
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

    most_rows = TILE

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

    def num_shared_tokens(self, first: ModelSummary, second: ModelSummary) -> int:
        """See `Backend`."""
        return token_lists.num_shared_tokens(first, second)

    def traits(self, model: ModelSummary, parallel: int, is_row_exact: bool) -> BackendTraits:
        """See `Backend`. Rows attend in the order of positions, so the order of cells has no part in their bits."""
        del model, parallel
        return BackendTraits(is_row_exact=is_row_exact, prefill=Tiles())

    def arithmetic(self, threads: int) -> Arithmetic:
        """See `Backend`."""
        import torch  # noqa: PLC0415  takes seconds

        kernels = f"torch {torch.__version__} on {torch.backends.cpu.get_cpu_capability()}, {threads} threads"
        return Arithmetic(kernels)

    def open_stage(
        self, model: ModelSummary, layers: range, size: StageSize, *, insist: bool = False, has_exit: bool = False
    ) -> StageModel:
        """See `Backend`."""
        _check_installed(size.torch.quantization)
        from mpispec.compute import torch_admission, torch_stage  # noqa: PLC0415  takes seconds

        if has_exit:
            raise ModelError("--exit needs a GGUF model so far; leave it out, or name one.")
        if len(layers) < model.layers and not insist:
            torch_admission.check(model.path, size.torch.runs_code)
        return torch_stage.open_stage(model.path, layers, model.layers, size)

    def open_tokenizer(self, path: Path) -> HfVocabulary:
        """See `Backend`."""
        _check_installed()
        return HfVocabulary(path)


def _check_installed(quantization: str | None = None) -> None:
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise ModelError(
                f"Models in Hugging Face's form need {package}; run: pip install 'mpispec[torch]', "
                "or name a model in GGUF format."
            )
    if quantization is not None and importlib.util.find_spec("torchao") is None:
        raise ModelError("--quantization needs torchao; run: pip install 'mpispec[torchao]', or leave it out.")
    for library in ("torchao", "torch.utils._pytree"):  # which complain of what is not used, as soon as both are there
        logging.getLogger(library).setLevel(logging.ERROR)
