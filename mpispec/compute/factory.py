"""Which backend computes a model: the one place that knows them all.

A model is a path: a GGUF file for llama.cpp, a folder as Hugging Face publishes it for torch. Another format and what
computes it joins as a further `Backend` that is returned for its paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mpispec.compute.base import Backend
from mpispec.compute.llama_backend import LlamaBackend
from mpispec.compute.torch_backend import TorchBackend
from mpispec.core.traits import BackendTraits, FreeAtOnce
from mpispec.models.registry import ModelSummary

BACKENDS: dict[str, Backend] = {backend.name: backend for backend in (LlamaBackend(), TorchBackend())}
MOST_ROWS = min(backend.most_rows for backend in BACKENDS.values())
"""Rows of the largest run in a job: the least that any backend declares."""


def backend_of(path: Path) -> Backend:
    """Return the backend of a model. Loads no library."""
    return BACKENDS["torch" if path.is_dir() else "llama"]


def is_order_exact(forms: Sequence[ModelSummary]) -> bool:
    """Tell whether a row's bits do not depend on the order of cells on stages that hold these forms of a model."""
    return all(backend_of(form.path).is_order_exact for form in forms)


def traits_of(
    forms: Sequence[ModelSummary], *, keeps_order: bool, is_row_exact: bool, has_own_cells: bool = False
) -> BackendTraits:
    """Return the traits of a pipeline whose stages hold these forms of a model (ADR 0034).

    Runs of a prompt that begin at multiples of a size are taken where a backend asks for them: others ask no more than
    that the prompt alone decides which rows go in a tile. Cells freed late are freed for all stages late; a backend
    that attends in the order of positions does not mind.
    """
    each = [backend_of(form.path).traits(form, keeps_order=keeps_order, is_row_exact=is_row_exact) for form in forms]
    return BackendTraits(
        is_row_exact=is_row_exact,
        may_gather=all(traits.may_gather for traits in each),
        may_branch=all(traits.may_branch for traits in each),
        prefill=next((traits.prefill for traits in each if traits.prefill.chunk), each[0].prefill),
        freeing=next((traits.freeing for traits in each if traits.freeing is not FreeAtOnce), FreeAtOnce),
        shares_cells=not has_own_cells and all(traits.shares_cells for traits in each),
        has_own_cells=has_own_cells,
    )
