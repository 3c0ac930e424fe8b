"""The two forms of one model: which of them is whose, and whether they are the same model (ADR 0034)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mpispec.compute.factory import BACKENDS, backend_of
from mpispec.models.errors import ModelError
from mpispec.models.registry import ModelSummary
from mpispec.runtime.plan import StagePlace

_FORMS = {"llama": "a GGUF file", "torch": "a Hugging Face folder"}
"""What each backend computes."""
_REMEDIES = {
    "llama": "or make one with convert_hf_to_gguf.py of llama.cpp",
    "torch": "or write one with: python scripts/research export MODEL.gguf FOLDER",
}


def chosen(model: ModelSummary, other: ModelSummary | None, backend: str) -> tuple[ModelSummary, ModelSummary | None]:
    """Return the form that stages hold unless the layout says otherwise, and the one that is left.

    `backend` is a name or auto: `model` itself. Raises ModelError where no form is the backend's, and where the two
    cannot be forms of one model.
    """
    if other is not None:
        _check_same_model(model, other)
    if backend in ("auto", backend_of(model.path).name):
        return model, other
    if other is None:
        raise _missing(model, backend, f"--backend {backend}")
    return other, model


def form_of(stage: StagePlace, model: ModelSummary, other: ModelSummary | None) -> ModelSummary:
    """Return the form that a stage of the target holds. Raises ModelError where there is none."""
    if stage.backend in ("", backend_of(model.path).name):
        return model
    if other is None:
        raise _missing(model, stage.backend, f"--layout with {stage.backend}:{stage.first}-{stage.last}")
    return other


def check_used(stages: Sequence[StagePlace], model: ModelSummary, other: ModelSummary | None, backend: str) -> None:
    """Raise ModelError where the user has given a second form that nothing asks for."""
    if other is None or backend != "auto" or any(form_of(stage, model, other) is other for stage in stages):
        return
    name = backend_of(other.path).name
    raise ModelError(
        f"--other-form is given and no rank uses it; name ranks in --layout, like 1:{name}:10-19, "
        f"or choose --backend {name}."
    )


def _missing(model: ModelSummary, backend: str, asked: str) -> ModelError:
    """Return what to say where a form is missing, unless its backend cannot compute here at all: that comes first."""
    BACKENDS[backend].check_here()
    return ModelError(
        f"{asked} needs {_FORMS[backend]}, and {model.path.name} is {_kind(model.path)}; "
        f"name one of the same model with --other-form, {_REMEDIES[backend]}."
    )


def _kind(path: Path) -> str:
    return _FORMS[backend_of(path).name]


def _check_same_model(model: ModelSummary, other: ModelSummary) -> None:
    """Raise ModelError unless rows may go from stages of one form to stages of the other, by headers alone."""
    if _kind(model.path) == _kind(other.path):
        raise ModelError(
            f"--other-form {other.path.name} is {_kind(other.path)} as the model is; "
            "name the same model in its other form, or leave it out."
        )
    for what, mine, theirs in (
        ("layers", model.layers, other.layers),
        ("numbers a row", model.width, other.width),
        ("tokens", model.vocabulary, other.vocabulary),
    ):
        if mine != theirs:
            raise _unlike(model, other, f"has {theirs:,} {what} and {model.path.name} {mine:,}")
    if not backend_of(model.path).num_shared_tokens(model, other):
        raise _unlike(model, other, f"lists other tokens than {model.path.name}")


def _unlike(model: ModelSummary, other: ModelSummary, difference: str) -> ModelError:
    return ModelError(
        f"--other-form {other.path.name} is another model: it {difference}; "
        f"name {_kind(other.path)} that was converted from or to {model.path.name}."
    )
