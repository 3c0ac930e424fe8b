"""Loads what a rank computes with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mpispec.compute.base import Arithmetic, ComputeError, Opened, Part, StageModel, StageSize, Together
from mpispec.compute.factory import backend_of
from mpispec.compute.shared_vocabulary import SharedVocabulary
from mpispec.core.ids import Actor
from mpispec.models.errors import ModelError
from mpispec.models.registry import ModelSummary
from mpispec.runtime.group import JobError
from mpispec.runtime.plan import StagePlace
from mpispec.runtime.setup import MOST_ROWS, JobOptions, Setup, num_sequences

Say = Callable[[str], None]
"""Tells, on rank 0, what is being done."""


@dataclass(frozen=True, slots=True)
class Models:
    """The models of one rank, by actor."""

    stages: dict[Actor, StageModel]
    """Of the target and of levels."""
    draft: StageModel | None
    """A whole model: first and last stage in one."""
    arithmetic: Arithmetic = field(default_factory=Arithmetic)
    """What the bits of the stages depend on."""
    together: Together | None = None
    """Computes with all stages of the target in one pass, where they share their weights."""

    def close(self) -> None:
        """Free their memory."""
        for stage in self.stages.values():
            stage.close()
        if self.draft is not None:
            self.draft.close()


def load(options: JobOptions, rank: int, setup: Setup, say: Say) -> Models:
    """Cut and load the layer ranges and the draft of a rank. Raises JobError."""
    plan = setup.plan
    try:
        stages: dict[Actor, StageModel] = {}
        together = None
        for model, pipeline in zip((setup.model, *setup.levels), plan.pipelines, strict=True):
            mine = {pipeline.actor_of(index): each for index, each in enumerate(pipeline.stages) if each.rank == rank}
            opened = _open_stages(options, setup, model, [*mine.values()], say)
            stages.update(zip(mine, opened.stages, strict=True))
            together = opened.together or together
        draft = _load_draft(options, setup, say) if plan.draft_rank == rank else None
        backend = backend_of(setup.model.path)
        arithmetic = backend.arithmetic(setup.threads[rank]) if stages else Arithmetic()
        return Models(stages, draft, arithmetic, together)
    except (ModelError, ComputeError) as error:
        raise JobError(str(error)) from error


def _open_stages(
    options: JobOptions, setup: Setup, model: ModelSummary, places: Sequence[StagePlace], say: Say
) -> Opened:
    """Open the stages of one model that lie on one rank, in the order of their layers."""
    if not places:
        return Opened([])
    ranges = ", ".join(f"{place.first}-{place.last}" for place in places)
    say(f"loading layers {ranges} of {model.path.name}")
    parts = [Part(place.layers, place.has_exit) for place in places]
    opened = backend_of(model.path).open_stages(model, parts, _size(options, setup, places[0].rank), options.insist)
    if model is setup.model:
        return opened
    ends = [place.last == model.layers - 1 for place in places]
    return Opened([_sharing(stage, setup, is_last) for stage, is_last in zip(opened.stages, ends, strict=True)])


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
    )


def _sharing(model: StageModel, setup: Setup, is_last: bool) -> StageModel:
    """Return a model that drafts, kept from tokens that not all models of the job have."""
    shared = min(setup.vocabularies)
    return SharedVocabulary(model, shared, is_last) if shared < max(setup.vocabularies) else model
