"""Loads what a rank computes with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mpispec.compute.base import Arithmetic, ComputeError, StageModel
from mpispec.compute.shared_vocabulary import SharedVocabulary
from mpispec.core.ids import Actor
from mpispec.models import cut
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
        return Models(stages, draft, _arithmetic(setup.threads[rank]) if stages else Arithmetic())
    except (ModelError, ComputeError) as error:
        raise JobError(str(error)) from error


def _load_stage(options: JobOptions, setup: Setup, model: ModelSummary, stage: StagePlace, say: Say) -> StageModel:
    from mpispec.compute.llama_stage import LlamaStage  # noqa: PLC0415  loads libllama: only where it computes

    say(f"loading layers {stage.first}-{stage.last} of {model.path.name}")
    whole = len(stage.layers) == model.layers
    path = model.path if whole else _part(options, model, stage)
    try:
        loaded = LlamaStage(
            path,
            first=stage.first == 0,
            last=stage.last == model.layers - 1,
            n_layers=len(stage.layers),
            context=setup.context * options.parallel,
            sequences=num_sequences(options.parallel),
            threads=setup.threads[stage.rank],
            max_rows=MOST_ROWS,
        )
        return loaded if model is setup.model else _sharing(loaded, setup, stage.last == model.layers - 1)
    except ModelError as error:  # the person knows the file that the part was cut from, not the part
        raise ModelError(str(error).replace(str(path), str(model.path))) from error


def _arithmetic(threads: int) -> Arithmetic:
    from mpispec.compute.llama_arithmetic import measured  # noqa: PLC0415  loads libllama: only where it computes

    return measured(threads)


def _part(options: JobOptions, model: ModelSummary, stage: StagePlace) -> Path:
    return cut.part(model.path, stage.layers, insist=options.insist, has_exit=stage.has_exit)


def _load_draft(options: JobOptions, setup: Setup, say: Say) -> StageModel:
    from mpispec.compute.llama_stage import LlamaStage  # noqa: PLC0415  loads libllama: only where it computes

    assert setup.draft is not None
    say(f"loading draft {setup.draft.path.name}")
    loaded = LlamaStage(
        setup.draft.path,
        first=True,
        last=True,
        n_layers=setup.draft.layers,
        context=setup.context * options.parallel,
        sequences=num_sequences(options.parallel),
        threads=setup.threads[setup.plan.draft_rank or 0],
        max_rows=MOST_ROWS,
    )
    return _sharing(loaded, setup, is_last=True)


def _sharing(model: StageModel, setup: Setup, is_last: bool) -> StageModel:
    """Return a model that guesses, kept from tokens that not all models of the job have."""
    shared = min(setup.vocabularies)
    return SharedVocabulary(model, shared, is_last) if shared < max(setup.vocabularies) else model
