"""Loads what a rank computes with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mpispec.compute.base import StageModel
from mpispec.core.ids import Actor
from mpispec.models import cut
from mpispec.models.errors import ModelError
from mpispec.runtime.group import JobError
from mpispec.runtime.plan import StagePlace
from mpispec.runtime.setup import JobOptions, Setup, num_sequences

Progress = Callable[[str], None]
"""Told what is being loaded."""


@dataclass(frozen=True, slots=True)
class Models:
    """The models of one rank, by actor."""

    stages: dict[Actor, StageModel]
    draft: StageModel | None
    """A whole model: first and last stage in one."""

    def close(self) -> None:
        """Free their memory."""
        for stage in self.stages.values():
            stage.close()
        if self.draft is not None:
            self.draft.close()


def load(options: JobOptions, rank: int, setup: Setup, progress: Progress) -> Models:
    """Cut and load the layer ranges and the draft of a rank. Raises JobError."""
    plan = setup.plan
    try:
        stages = {
            Actor(index + 1): _load_stage(options, setup, stage, progress)
            for index, stage in enumerate(plan.stages)
            if stage.rank == rank
        }
        return Models(stages, _load_draft(options, setup, progress) if plan.draft_rank == rank else None)
    except ModelError as error:
        raise JobError(str(error)) from error


def _load_stage(options: JobOptions, setup: Setup, stage: StagePlace, progress: Progress) -> StageModel:
    from mpispec.compute.llama_stage import LlamaStage  # noqa: PLC0415  loads libllama: only where it computes

    progress(f"layers {stage.first}-{stage.last} of {setup.model.path.name}")
    whole = len(setup.plan.stages) == 1
    path = setup.model.path if whole else _part(options, setup, stage)
    try:
        return LlamaStage(
            path,
            first=stage.first == 0,
            last=stage.last == setup.model.layers - 1,
            n_layers=len(stage.layers),
            context=setup.context * options.parallel,
            sequences=num_sequences(options.parallel),
            threads=setup.threads[stage.rank],
            max_rows=options.chunk,
        )
    except ModelError as error:  # the person knows the file that the part was cut from, not the part
        raise ModelError(str(error).replace(str(path), str(setup.model.path))) from error


def _part(options: JobOptions, setup: Setup, stage: StagePlace) -> Path:
    return cut.part(setup.model.path, stage.layers, insist=options.insist, has_exit=stage.has_exit)


def _load_draft(options: JobOptions, setup: Setup, progress: Progress) -> StageModel:
    from mpispec.compute.llama_stage import LlamaStage  # noqa: PLC0415  loads libllama: only where it computes

    assert setup.draft is not None
    progress(f"draft {setup.draft.path.name}")
    return LlamaStage(
        setup.draft.path,
        first=True,
        last=True,
        n_layers=setup.draft.layers,
        context=setup.context * options.parallel,
        sequences=num_sequences(options.parallel),
        threads=setup.threads[setup.plan.draft_rank or 0],
        max_rows=options.chunk,
    )
