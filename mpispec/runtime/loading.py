"""Loads what a rank computes with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mpispec.compute.base import Arithmetic, ComputeError, StageModel, StageSize
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

    def close(self) -> None:
        """Free their memory."""
        for stage in self.stages.values():
            stage.close()
        if self.draft is not None:
            self.draft.close()


def held(setup: Setup, rank: int) -> list[tuple[Path, range]]:
    """Return the layers of models that a rank holds."""
    models = (setup.model, *setup.levels)
    found = [
        (model.path, stage.layers)
        for model, pipeline in zip(models, setup.plan.pipelines, strict=True)
        for stage in pipeline.stages
        if stage.rank == rank
    ]
    if setup.draft is not None and setup.plan.draft_rank == rank:
        found.append((setup.draft.path, range(setup.draft.layers)))
    return found


def load(options: JobOptions, rank: int, setup: Setup, say: Say) -> Models:
    """Cut and load the layer ranges and the draft of a rank. Raises JobError."""
    plan = setup.plan
    try:
        stages = {
            pipeline.actor_of(index): _load_stage(options, setup, model, stage, say)
            for model, pipeline in zip((setup.model, *setup.levels), plan.pipelines, strict=True)
            for index, stage in enumerate(pipeline.stages)
            if stage.rank == rank
        }
        draft = _load_draft(options, setup, say) if plan.draft_rank == rank else None
        backend = backend_of(setup.model.path)
        return Models(stages, draft, backend.arithmetic(setup.threads[rank]) if stages else Arithmetic())
    except (ModelError, ComputeError) as error:
        raise JobError(str(error)) from error


def _load_stage(options: JobOptions, setup: Setup, model: ModelSummary, stage: StagePlace, say: Say) -> StageModel:
    say(f"loading layers {stage.first}-{stage.last} of {model.path.name}")
    size = _size(options, setup, stage.rank)
    backend = backend_of(model.path)
    loaded = backend.open_stage(model, stage.layers, size, insist=options.insist, has_exit=stage.has_exit)
    return loaded if model is setup.model else _sharing(loaded, setup, stage.last == model.layers - 1)


def _load_draft(options: JobOptions, setup: Setup, say: Say) -> StageModel:
    draft = setup.draft
    assert draft is not None
    say(f"loading draft {draft.path.name}")
    size = _size(options, setup, setup.plan.draft_rank or 0)
    return _sharing(backend_of(draft.path).open_stage(draft, range(draft.layers), size), setup, is_last=True)


def _size(options: JobOptions, setup: Setup, rank: int) -> StageSize:
    context = setup.context * options.parallel
    sequences = num_sequences(options.parallel)
    return StageSize(context, sequences, setup.threads[rank], MOST_ROWS, options.torch)


def _sharing(model: StageModel, setup: Setup, is_last: bool) -> StageModel:
    """Return a model that drafts, kept from tokens that not all models of the job have."""
    shared = min(setup.vocabularies)
    return SharedVocabulary(model, shared, is_last) if shared < max(setup.vocabularies) else model
