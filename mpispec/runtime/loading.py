"""Loads what a rank computes with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from mpispec.compute.base import Arithmetic, ComputeError, StageModel, StageSize
from mpispec.compute.factory import backend_of
from mpispec.compute.shared_vocabulary import SharedVocabulary
from mpispec.core.ids import Actor
from mpispec.models.errors import ModelError
from mpispec.runtime.group import JobError
from mpispec.runtime.setup import MOST_ROWS, JobOptions, Place, Setup, num_sequences

Say = Callable[[str], None]
"""Tells, on rank 0, what is being done."""


@dataclass(frozen=True, slots=True)
class Models:
    """The models of one rank, by actor."""

    stages: dict[Actor, StageModel]
    """Of the target and of levels."""
    draft: StageModel | None
    """A whole model: first and last stage in one."""
    arithmetic: dict[Actor, Arithmetic] = field(default_factory=dict)
    """What the bits of each stage depend on."""

    def close(self) -> None:
        """Free their memory."""
        for stage in self.stages.values():
            stage.close()
        if self.draft is not None:
            self.draft.close()


def load(options: JobOptions, rank: int, setup: Setup, say: Say) -> Models:
    """Cut and load the layer ranges and the draft of a rank. Raises JobError."""
    try:
        places = [place for place in setup.places if place.stage.rank == rank]
        stages = {place.actor: _load_stage(options, setup, place, say) for place in places}
        draft = _load_draft(options, setup, say) if setup.plan.draft_rank == rank else None
        backends = {place.actor: backend_of(place.model.path) for place in places}
        size = _size(options, setup, rank)
        measured = {backend.name: backend.arithmetic(size) for backend in set(backends.values())}
        return Models(stages, draft, {actor: measured[backend.name] for actor, backend in backends.items()})
    except (ModelError, ComputeError) as error:
        raise JobError(str(error)) from error


def _load_stage(options: JobOptions, setup: Setup, place: Place, say: Say) -> StageModel:
    stage, model = place.stage, place.model
    say(f"loading layers {stage.first}-{stage.last} of {model.path.name}")
    size = _size(options, setup, stage.rank)
    backend = backend_of(model.path)
    loaded = backend.open_stage(model, stage.layers, size, insist=options.insist, has_exit=stage.has_exit)
    return loaded if place.is_target else _sharing(loaded, setup, stage.last == model.layers - 1)


def _load_draft(options: JobOptions, setup: Setup, say: Say) -> StageModel:
    draft = setup.draft
    assert draft is not None
    say(f"loading draft {draft.path.name}")
    size = _size(options, setup, setup.plan.draft_rank or 0)
    return _sharing(backend_of(draft.path).open_stage(draft, range(draft.layers), size), setup, is_last=True)


def _size(options: JobOptions, setup: Setup, rank: int) -> StageSize:
    context = setup.context * options.parallel
    return StageSize(
        context,
        num_sequences(options.parallel),
        setup.threads[rank],
        MOST_ROWS,
        dtype=options.dtype or "auto",
        device=options.device or "auto",
        gpu_layers=setup.gpu_layers[rank] if setup.gpu_layers else 0,
    )


def _sharing(model: StageModel, setup: Setup, is_last: bool) -> StageModel:
    """Return a model that drafts, kept from tokens that not all models of the job have."""
    shared = min(setup.vocabularies)
    return SharedVocabulary(model, shared, is_last) if shared < max(setup.vocabularies) else model
