"""Loads what a rank computes with."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mpispec.compute.base import Arithmetic, ComputeError, Opened, Part, StageModel, StageSize, Together
from mpispec.compute.factory import backend_of
from mpispec.compute.shared_vocabulary import SharedVocabulary
from mpispec.core.ids import Actor
from mpispec.models.errors import ModelError
from mpispec.models.hub import Held
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
    together: Together | None = None
    """Computes with all stages of the target in one pass, where they share their weights."""
    context_bytes: int = 0
    """What one more request takes of the host's memory, where each has a context."""

    def close(self) -> None:
        """Free their memory."""
        for stage in self.stages.values():
            stage.close()
        if self.draft is not None:
            self.draft.close()


def held(setup: Setup, rank: int) -> list[Held]:
    """Return the layers of models that a rank holds."""
    found = [Held(place.model.path, place.stage.layers, place.stage.has_exit) for place in setup.places_of(rank)]
    if setup.draft is not None and setup.plan.draft_rank == rank:
        found.append(Held(setup.draft.path, range(setup.draft.layers)))
    return found


def load(options: JobOptions, rank: int, setup: Setup, say: Say) -> Models:
    """Cut and load the layer ranges and the draft of a rank. Raises JobError."""
    try:
        places = setup.places_of(rank)
        stages: dict[Actor, StageModel] = {}
        together, context_bytes = None, 0
        for _, alike in itertools.groupby(places, lambda place: (place.model.path, place.is_target)):
            mine = [*alike]
            opened = _open_stages(options, setup, mine, say)
            stages.update(zip((place.actor for place in mine), opened.stages, strict=True))
            together = opened.together or together
            context_bytes += opened.context_bytes if mine[0].is_target else 0
        draft = _load_draft(options, setup, say) if setup.plan.draft_rank == rank else None
        backends = {place.actor: backend_of(place.model.path) for place in places}
        size = _size(options, setup, rank)
        measured = {backend.name: backend.arithmetic(size) for backend in set(backends.values())}
        arithmetic = {actor: measured[backend.name] for actor, backend in backends.items()}
        return Models(stages, draft, arithmetic, together, context_bytes)
    except (ModelError, ComputeError) as error:
        raise JobError(str(error)) from error


def least_bytes(options: JobOptions, setup: Setup, rank: int) -> int:
    """Return the bytes of its host's memory that a rank takes once it has loaded, at least; 0 where none can tell."""
    buffers: list[int | None] = []
    for place in setup.places_of(rank):
        size = _size(options, setup, rank, setup.contexts if place.is_target else 1)
        part = Part(place.stage.layers, place.stage.has_exit)
        buffers.append(backend_of(place.model.path).buffer_bytes(place.model, part, size))
    draft = setup.draft
    if draft is not None and setup.plan.draft_rank == rank:
        part = Part(range(draft.layers))
        buffers.append(backend_of(draft.path).buffer_bytes(draft, part, _size(options, setup, rank)))
    known = [each for each in buffers if each is not None]
    return setup.bytes_of(rank) + sum(known) if known and len(known) == len(buffers) else 0


def _open_stages(options: JobOptions, setup: Setup, places: Sequence[Place], say: Say) -> Opened:
    """Open the stages of one model that lie on one rank, in the order of their layers."""
    model, is_target = places[0].model, places[0].is_target
    stages = [place.stage for place in places]
    ranges = ", ".join(f"{stage.first}-{stage.last}" for stage in stages)
    say(f"loading layers {ranges} of {model.path.name}")
    parts = [Part(stage.layers, stage.has_exit) for stage in stages]
    size = _size(options, setup, stages[0].rank, setup.contexts if is_target else 1)
    opened = backend_of(model.path).open_stages(model, parts, size, options.insist)
    if is_target:
        return opened
    ends = [stage.last == model.layers - 1 for stage in stages]
    return Opened([_sharing(stage, setup, is_last) for stage, is_last in zip(opened.stages, ends, strict=True)])


def _load_draft(options: JobOptions, setup: Setup, say: Say) -> StageModel:
    draft = setup.draft
    assert draft is not None
    say(f"loading draft {draft.path.name}")
    size = _size(options, setup, setup.plan.draft_rank or 0)
    return _sharing(backend_of(draft.path).open_stage(draft, range(draft.layers), size), setup, is_last=True)


def _size(options: JobOptions, setup: Setup, rank: int, contexts: int = 1) -> StageSize:
    """Return the size of stages whose requests share the cells, or have each a context."""
    return StageSize(
        setup.cells if contexts == 1 else setup.context,
        num_sequences(options.parallel if contexts == 1 else 1),
        setup.threads[rank],
        MOST_ROWS,
        setup.plan.torch_options(rank, options.torch),
        gpu_layers=setup.gpu_layers[rank] if setup.gpu_layers else 0,
        contexts=contexts,
    )


def _sharing(model: StageModel, setup: Setup, is_last: bool) -> StageModel:
    """Return a model that drafts, kept from tokens that not all models of the job have."""
    shared = min(setup.vocabularies)
    return SharedVocabulary(model, shared, is_last) if shared < max(setup.vocabularies) else model
