"""What the runtime asks of a backend.

A backend is used by one thread at a time (the rank's compute thread) and keeps the cache contract of the design:
a cell carries a position and a set of sequence ids; a row of sequence s at position p attends to the cells that
carry s at positions up to p.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mpispec.core.messages import CacheOp, Run
from mpispec.core.traits import BackendTraits
from mpispec.models.errors import ModelError
from mpispec.models.registry import ModelSummary

__all__ = [
    "Arithmetic",
    "Backend",
    "Cancelled",
    "ComputeError",
    "ExitModel",
    "Floats",
    "ModelError",
    "StageModel",
    "StageSize",
    "Tokenizer",
    "TorchOptions",
]

Floats = NDArray[np.float32]
Cancelled = Callable[[], bool]
"""Looked at between layers; once true, the forward may give up and return None."""


class ComputeError(Exception):
    """A backend could not compute; the text is one sentence that names the cause."""


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What the bits of a row depend on apart from weights and inputs, as a backend declares it for one rank."""

    kernels: str = ""
    """Names the instructions that are computed with: ranks where it differs may compute other bits."""
    is_thread_exact: bool = True
    """Whether a row has the same bits with the threads that compute here as with one."""
    numbers: str = ""
    """Names the numbers that are computed in, where that is chosen: stages where it differs do compute other bits."""


class StageModel(Protocol):
    """A layer range of the target model."""

    def apply(self, cache_ops: Sequence[CacheOp]) -> None:
        """Apply cache operations in order; GATHER is among them only where the backend's traits ask for it."""

    def forward(self, run: Run, activations: Floats | None, cancelled: Cancelled) -> Floats | None:
        """Compute a run's rows and write their cells, with all their labels; its cache operations are left to `apply`.

        `activations` is float32 [rows, width], or None on the first stage, which embeds the rows' tokens itself.
        Returns float32 [rows, width], on the last stage logits float32 [deciding rows, vocabulary] in row order, or
        None when given up. A forward that was given up may have written some of its cells.
        """

    def close(self) -> None:
        """Free the memory."""


class ExitModel(StageModel, Protocol):
    """A layer range that also holds the target's final norm and projection, for an early exit."""

    def forward_and_exit(
        self, run: Run, activations: Floats | None, cancelled: Cancelled
    ) -> tuple[Floats, Floats] | None:
        """Compute as `forward` does; return its output and the logits of the deciding rows after these layers."""


class StageOutput(NamedTuple):
    """What came of a run on a stage."""

    hidden: Floats
    """float32 [rows, width], before norm and LM head."""
    logits: Floats
    """float32 [deciding rows, vocabulary]; no rows where the stage has no LM head."""


class StageRun(NamedTuple):
    """A run and the stage that computes it, as `StageModel.forward` takes it."""

    stage: StageModel
    run: Run
    activations: Floats | None
    cancelled: Cancelled


Together = Callable[[Sequence[StageRun]], "list[StageOutput | None]"]
"""Computes runs of stages that share their weights in one pass; None for each that was given up."""


class Part(NamedTuple):
    """What a stage holds."""

    layers: range
    has_exit: bool = False
    """Whether it also holds norm and LM head, and drafts."""


class Opened(NamedTuple):
    """The stages of one model on a rank."""

    stages: list[StageModel]
    together: Together | None = None
    """Where they share their weights."""
    context_bytes: int = 0
    """What each context beyond the first takes of the host's memory, of all these stages."""


PIECES = 1 << 14
"""Tokens whose bytes a tokenizer remembers: most texts are made of few, and each is asked for again and again."""


class Tokenizer(Protocol):
    """Text to tokens and back."""

    digest: str
    """Hash of the list of tokens: equal where two models share a vocabulary."""
    size: int
    bos: int | None
    """Token that begins a text, None if the model has none."""
    eos: int | None
    """Token that ends a text, None if the model has none."""
    chat_template: str | None
    """Jinja source of the model's own chat template, None if it has none."""

    @property
    def infill(self) -> tuple[int, int, int] | None:
        """Tokens before a prefix, before a suffix, and before what goes between; None where the model knows none."""

    @property
    def eog(self) -> frozenset[int]:
        """All tokens that end a generation."""

    @property
    def controls(self) -> frozenset[str]:
        """The texts that `tokenize` takes for control tokens if `special`, and for text if not."""

    def tokenize(self, text: str, special: bool, begin: bool = True) -> list[int]:
        """Return the token ids of `text`; `special` ones as such, after the token that begins a text with `begin`."""

    def piece(self, token: int, special: bool = False) -> bytes:
        """Return the bytes of a token, which may end within a character; control tokens are empty unless `special`."""

    def close(self) -> None:
        """Free the memory."""


DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZATIONS = ("int8",)


@dataclass(frozen=True, slots=True)
class TorchOptions:
    """What a user chooses of how torch computes models in Hugging Face's form; nothing to llama.cpp."""

    dtype: str = "auto"
    """Numbers that it computes in, one of `DTYPES`; auto: float32 on a CPU, bfloat16 on a GPU."""
    device: str = "auto"
    """Where it computes: cpu, cuda, cuda:N; auto: on a GPU where there is one."""
    runs_code: bool = False
    """Whether code that a folder brings is run."""
    quantization: str | None = None
    """Numbers that the weights of layers are rounded to when they are loaded, one of `QUANTIZATIONS`; None: `dtype`."""


@dataclass(frozen=True, slots=True)
class StageSize:
    """What a stage must have room for, and how it is computed."""

    context: int
    """Positions that all open requests of a context together may have."""
    sequences: int
    """Sequence ids of a context; those of context k follow from k times this number on."""
    threads: int
    most_rows: int
    """Rows of one run."""
    torch: TorchOptions = TorchOptions()
    gpu_layers: int = 0
    """Layers that llama.cpp keeps on a GPU, from the last one of the stage on; -1: all."""
    contexts: int = 1
    """Caches that share nothing but the weights."""


class Backend(Protocol):
    """A format of model files and the library that computes it. All of it may raise ModelError."""

    name: str
    """What users call it."""
    most_rows: int
    """Rows of the largest run that a stage or a draft is given."""
    is_order_exact: bool
    """Whether a row has the same bits in whatever order the cells lie that it attends to."""
    gives_way: bool
    """Whether a stage may compute a run within the `cancelled` of another, of runs that write different contexts."""

    def check_here(self) -> None:
        """Raise ModelError where this host lacks what the backend needs; loads nothing."""

    def inspect(self, path: Path) -> ModelSummary:
        """Return what a model holds, from its headers alone."""

    def check_cuts(self, model: ModelSummary, parts: Iterable[range], insist: bool) -> None:
        """Raise ModelError unless a model may be cut into these layer ranges; with `insist`, though nobody tried it."""

    def num_shared_tokens(self, first: ModelSummary, second: ModelSummary) -> int:
        """Return how many tokens two models share from the first on, 0 where they are of different families."""

    def traits(self, model: ModelSummary, *, keeps_order: bool, is_row_exact: bool) -> BackendTraits:
        """Return what the core has to know; `is_row_exact` is measured.

        `keeps_order` where requests do not leave holes among each other's cells.
        """

    def arithmetic(self, size: StageSize) -> Arithmetic:
        """Return what bits depend on where a stage of such a size is computed here."""

    def buffer_bytes(self, model: ModelSummary, part: Part, size: StageSize) -> int | None:
        """Return the bytes of this host's memory that a stage takes besides its weights, at least.

        None where that, or where the weights lie, is not known before they are loaded.
        """

    def open_stage(
        self, model: ModelSummary, layers: range, size: StageSize, *, insist: bool = False, has_exit: bool = False
    ) -> StageModel:
        """Cut the layers out where they are not all, and load them; with an exit it is an `ExitModel`."""

    def open_stages(self, model: ModelSummary, parts: Sequence[Part], size: StageSize, insist: bool) -> Opened:
        """Open all stages of a model on a rank, in the order of their layers."""

    def open_tokenizer(self, path: Path) -> Tokenizer:
        """Load the tokenizer and no weights."""
