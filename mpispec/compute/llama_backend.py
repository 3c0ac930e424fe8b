"""GGUF files on llama.cpp. The library is loaded where a model is opened, and nowhere before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mpispec.compute import llama_traits
from mpispec.compute.base import Arithmetic, Opened, Part, StageModel, StageSize
from mpispec.core.traits import BackendTraits
from mpispec.models import cut, registry, token_lists
from mpispec.models.errors import ModelError
from mpispec.models.gguf_file import read
from mpispec.models.registry import ModelSummary

if TYPE_CHECKING:
    from mpispec.compute.llama_stage import LlamaStage
    from mpispec.compute.llama_vocabulary import Vocabulary


class LlamaBackend:
    """A `Backend`."""

    name = "llama"
    most_rows = llama_traits.TILE
    is_order_exact = False
    gives_way = True

    def check_here(self) -> None:
        """See `Backend`. llama.cpp comes with mpispec."""

    def inspect(self, path: Path) -> ModelSummary:
        """See `Backend`."""
        return registry.inspect(path)

    def check_cuts(self, model: ModelSummary, parts: Iterable[range], insist: bool) -> None:
        """See `Backend`."""
        source = read(model.path)
        for layers in parts:
            registry.check_cut(source, layers, insist)

    def num_shared_tokens(self, first: ModelSummary, second: ModelSummary) -> int:
        """See `Backend`."""
        return token_lists.num_shared_tokens(first, second)

    def traits(self, model: ModelSummary, *, keeps_order: bool, is_row_exact: bool) -> BackendTraits:
        """See `Backend`."""
        return llama_traits.traits(keeps_order, model.quantised, is_row_exact)

    def arithmetic(self, size: StageSize) -> Arithmetic:
        """See `Backend`."""
        from mpispec.compute.llama_arithmetic import measured  # noqa: PLC0415  loads libllama

        found = measured(size.threads)
        return replace(found, kernels=f"{found.kernels}, on a GPU") if size.gpu_layers else found

    def buffer_bytes(self, model: ModelSummary, part: Part, size: StageSize) -> int | None:
        """See `Backend`: its cells, and logits where it projects."""
        if size.gpu_layers:
            return None
        cells = (size.context + llama_traits.SPARE_CELLS) * len(part.layers) * model.cell_bytes
        projects = part.has_exit or part.layers.stop == model.layers
        # llama.cpp's logits of a run, as many in its graph, and ours of a row.
        return cells + (4 * (2 * size.most_rows + 1) * model.vocabulary if projects else 0)

    def open_stage(
        self, model: ModelSummary, layers: range, size: StageSize, *, insist: bool = False, has_exit: bool = False
    ) -> StageModel:
        """See `Backend`."""
        return self._open(model, Part(layers, has_exit), size, insist)

    def _open(self, model: ModelSummary, part: Part, size: StageSize, insist: bool) -> LlamaStage:
        from mpispec.compute.llama_stage import LlamaStage  # noqa: PLC0415  loads libllama

        layers = part.layers
        whole = len(layers) == model.layers
        path = model.path if whole else cut.part(model.path, layers, insist=insist, has_exit=part.has_exit)
        try:
            return LlamaStage(
                path, size, first=layers.start == 0, last=layers.stop == model.layers, n_layers=len(layers)
            )
        except ModelError as error:  # the person knows the file that the part was cut from, not the part
            raise ModelError(str(error).replace(str(path), str(model.path))) from error

    def open_stages(self, model: ModelSummary, parts: Sequence[Part], size: StageSize, insist: bool) -> Opened:
        """See `Backend`."""
        opened = [self._open(model, part, size, insist) for part in parts]
        return Opened([*opened], context_bytes=sum(stage.context_bytes for stage in opened))

    def open_tokenizer(self, path: Path) -> Vocabulary:
        """See `Backend`."""
        from mpispec.compute.llama_vocabulary import Vocabulary  # noqa: PLC0415  loads libllama

        return Vocabulary(path)


def finds_gpu() -> bool:
    """Tell whether llama.cpp was built for GPUs and finds one here."""
    from mpispec.compute.llama import api, library  # noqa: PLC0415  loads libllama

    library()
    return bool(api.llama_supports_gpu_offload())
