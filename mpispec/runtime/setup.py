"""What all ranks agree on before anything is loaded; what a user can get wrong is found here."""

from __future__ import annotations

import os
from dataclasses import dataclass

import msgpack

from mpispec.core.request import EXIT
from mpispec.models import default, registry
from mpispec.models.errors import ModelError
from mpispec.models.gguf_file import read
from mpispec.models.registry import ModelSummary
from mpispec.runtime.group import Group, JobError, agree, gather
from mpispec.runtime.plan import Plan, PlanError, make_plan, with_exits
from mpispec.transport.environment import host_identity, hostname

DEFAULT_CONTEXT = 2048


@dataclass(frozen=True, slots=True)
class JobOptions:
    """What the command line says about a job; the same on all ranks."""

    model: str | None = None
    """A path, `hf:owner/repo/file.gguf`, or None for the default model."""
    draft: str | None = None
    context: int | None = None
    """Positions of one request; None: 2048, or what the model was trained for if that is less."""
    parallel: int = 1
    """Requests that run at once."""
    threads: int | None = None
    """Threads of each compute; None shares the host's usable cores among its computing roles."""
    layout: str | None = None
    wire: str = "f32"
    strategy: str = "pipeinfer"
    proposer: str | None = None
    """None: `draft` where a draft is given, else `ngram`."""
    oracle_hit_rate: float = 0.0
    exits: tuple[int, ...] = ()
    """Stages, counted from 1, that also guess from their own output."""
    insist: bool = False
    """Run architectures that are not certified."""
    is_traced: bool = False
    chunk: int = 32
    """Rows of a prefill run: enough that a row is as cheap as it gets, few enough to fill a pipeline soon."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What all ranks agreed on before loading."""

    model: ModelSummary
    draft: ModelSummary | None
    plan: Plan
    hosts: tuple[str, ...]
    threads: tuple[int, ...]
    """Threads of a compute, by rank."""
    context: int
    """Positions of one request, prompt and answer together."""

    def bytes_of(self, rank: int) -> int:
        """Return the bytes of weights that a rank holds."""
        total = 0
        for stage in self.plan.stages_of(rank):
            total += sum(self.model.layer_bytes[stage.first : stage.last + 1])
            total += self.model.embedding_bytes if stage.first == 0 else 0
            decides = stage.has_exit or stage.last == self.model.layers - 1
            total += self.model.head_bytes if decides and stage.first else 0
        if self.draft is not None and self.plan.draft_rank == rank:
            total += self.draft.file_bytes
        return total


def prepare(options: JobOptions, group: Group) -> Setup:
    """Find everything that a user can get wrong; JobError on all ranks if anything is."""
    model, draft, plan = agree(group, lambda: _inspect(options, group.size))
    _check_same_files(group, model, draft)
    context = options.context or min(DEFAULT_CONTEXT, model.context)
    computing = plan.num_computing(group.rank)
    usable = len(os.sched_getaffinity(0))
    mine = msgpack.packb([hostname(), host_identity(), usable, computing])
    everyone = [msgpack.unpackb(theirs) for theirs in gather(group, mine)]
    threads = []
    for _, identity, cores, _ in everyone:
        sharing = sum(count for _, other, _, count in everyone if other == identity)
        threads.append(options.threads or max(1, cores // max(1, sharing)))
    return Setup(model, draft, plan, tuple(host for host, *_ in everyone), tuple(threads), context)


def _inspect(options: JobOptions, num_ranks: int) -> tuple[ModelSummary, ModelSummary | None, Plan]:
    try:
        model = registry.inspect(default.resolve(options.model))
        draft = registry.inspect(default.resolve(options.draft)) if options.draft else None
        plan = with_exits(make_plan(num_ranks, model, draft is not None, options.layout), options.exits)
        if plan.num_stages > 1:
            source = read(model.path)
            for stage in plan.stages:
                registry.check_cut(source, stage.layers, options.insist)
        if draft is not None:
            _check_vocabularies(model, draft)
    except (ModelError, PlanError) as error:
        raise JobError(str(error)) from error
    if options.context is not None and options.context > model.context:
        raise JobError(
            f"--ctx {options.context} is more than the {model.context} positions {model.path.name} was trained for; "
            f"use --ctx {model.context} or less."
        )
    if options.proposer == "draft" and draft is None:
        raise JobError("--proposer draft needs a draft model; name one with --draft MODEL.")
    if options.proposer == EXIT and not plan.has_exit:
        raise JobError("--proposer exit needs a stage that guesses; name one with --exit STAGE.")
    return model, draft, plan


def _check_same_files(group: Group, model: ModelSummary, draft: ModelSummary | None) -> None:
    """Raise JobError unless every rank read the same headers: each plans and cuts from its own copy."""
    mine = repr([(each.header_digest, each.file_bytes) for each in (model, draft) if each is not None]).encode()
    everyone = gather(group, mine)
    for rank, theirs in enumerate(everyone):
        if theirs != everyone[0]:
            raise JobError(
                f"Rank {rank} has another file of that name than rank 0; "
                "copy the same model to the same path on every host."
            )


def _check_vocabularies(model: ModelSummary, draft: ModelSummary) -> None:
    if model.vocabulary_digest != draft.vocabulary_digest:
        raise JobError(
            f"The draft {draft.path.name} has another vocabulary than {model.path.name}, so its guesses would mean "
            "other words; use a draft of the same model family."
        )


def num_sequences(parallel: int) -> int:
    """Return how many sequence ids the caches get: one a request, and branches for their trees."""
    return min(256, parallel + 128)
