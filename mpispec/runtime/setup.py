"""What all ranks agree on before anything is loaded; what a user can get wrong is found here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import msgpack

from mpispec.compute import cpu_needs, factory
from mpispec.compute.base import TorchOptions
from mpispec.compute.factory import backend_of, is_order_exact
from mpispec.core.ids import Actor
from mpispec.core.request import EXIT
from mpispec.drafters.suffix_store import MOST_TOKENS
from mpispec.models import default, hf_folder
from mpispec.models.errors import ModelError
from mpispec.models.registry import ModelSummary
from mpispec.runtime import exactness
from mpispec.runtime.cores import usable_cores
from mpispec.runtime.exactness import Exactness
from mpispec.runtime.forms import check_used, chosen, form_of
from mpispec.runtime.gpus import gpu_layers
from mpispec.runtime.group import Group, JobError, agree, gather
from mpispec.runtime.plan import Plan, PlanError, StagePlace, make_plan
from mpispec.transport.environment import host_identity, hostname

DEFAULT_CONTEXT = 2048
MOST_ROWS = factory.MOST_ROWS
"""Rows of the largest run that any stage or draft is given."""


@dataclass(frozen=True, slots=True)
class JobOptions:
    """What the command line says about a job; the same on all ranks."""

    model: str | None = None
    """A path, `hf:owner/repo/file.gguf`, or None for the default model."""
    backend: str = "auto"
    """What computes the model, llama or torch; auto: as its form says."""
    other_form: str | None = None
    """The same model in the other form, for the other backend."""
    draft: str | None = None
    cascade: tuple[str, ...] = ()
    """Models between the draft and the model, the smallest first: each verifies the one below (pipespec)."""
    context: int | None = None
    """Positions of one request; None: 2048, or what the model was trained for if that is less."""
    parallel: int = 1
    """Requests that run at once."""
    may_shrink: bool = False
    """Whether fewer will do where memory is short: the user did not say how many."""
    cells: int | None = None
    """Cells that they share; None: see `num_cells`."""
    exactness: str = "auto"
    """One of `EXACTNESS`: whether these may change each other's bits; auto: as it costs least."""
    threads: int | None = None
    """Threads of each compute; None shares the host's usable cores among its computing roles."""
    layout: str | None = None
    is_balanced: bool = False
    """Lay layers out by the measured speed of hosts."""
    wire: str = "f32"
    strategy: str = "auto"
    drafter: str | None = None
    """None: `draft` where a draft is given, else `ngram`."""
    ngram_tokens: int = MOST_TOKENS
    """Tokens of this and earlier requests that n-grams draft from; 0: each request from its own text."""
    ngram_file: Path | None = None
    """Keeps them from one job to the next."""
    oracle_acceptance_rate: float = 0.0
    exits: tuple[int, ...] = ()
    """Stages, counted from 1, that also draft from their own output."""
    torch: TorchOptions = field(default_factory=TorchOptions)
    gpu_layers: int = 0
    """See `StageSize`; on ranks where llama.cpp finds no GPU it computes on the CPU."""
    insist: bool = False
    """Run architectures that are not certified."""
    is_traced: bool = False
    is_timed: bool = False
    """Record computes and accepted tokens alone: cheap enough to measure with, where a whole trace is not."""


class Place(NamedTuple):
    """A stage and what it holds a part of."""

    actor: Actor
    stage: StagePlace
    model: ModelSummary
    is_target: bool


@dataclass(frozen=True, slots=True)
class Setup:
    """What all ranks agreed on before loading."""

    model: ModelSummary
    """The form that stages hold unless the layout names the other."""
    draft: ModelSummary | None
    plan: Plan
    hosts: tuple[str, ...]
    threads: tuple[int, ...]
    """Threads of a compute, by rank."""
    context: int
    """Positions of one request, prompt and answer together."""
    levels: tuple[ModelSummary, ...] = ()
    """Models of the cascade between target and draft, from the top down, as `Plan.levels`."""
    few_threads: tuple[str, ...] = ()
    """By rank why its host's share is less than its processors; empty where it is not, or where --threads says it."""
    other: ModelSummary | None = None
    """The same model in the other form."""
    gpu_layers: tuple[int, ...] = ()
    """By rank, as `StageSize.gpu_layers`; nothing: on no rank."""
    exactness: Exactness = "exact"
    contexts: int = 1
    """Caches of a stage of the target: one, or one for each request that may run at once."""
    cells: int = 0
    """Positions for which a cache has cells that requests share, of the target or of what drafts for it."""

    @property
    def models(self) -> tuple[ModelSummary, ...]:
        """The target and what drafts for it."""
        return (self.model, *self.levels, *([self.draft] if self.draft is not None else []))

    @property
    def vocabularies(self) -> tuple[int, ...]:
        """How many tokens each model of the job has; the least is how many mean the same to all."""
        return tuple(model.vocabulary for model in self.models)

    def warnings(self) -> Iterator[str]:
        """Yield what the user should know before anything is loaded."""
        for path in self.code:
            yield f"the code in {path} is run on all ranks; it can do all that you can"
        for model in self.models[1:]:
            if model.context < self.context:
                yield (
                    f"{model.path.name} was trained for {model.context} positions; beyond them it drafts nothing, "
                    f"and a request may have {self.context} (--ctx)"
                )

    @property
    def code(self) -> tuple[Path, ...]:
        """Folders whose code is run."""
        models = (*self.models, *([self.other] if self.other is not None else []))
        return tuple(model.path for model in models if model.path.is_dir() and hf_folder.has_code(model.path))

    def form_of(self, stage: StagePlace) -> ModelSummary:
        """Return the form that a stage of the target holds."""
        return form_of(stage, self.model, self.other)

    @property
    def places(self) -> Iterator[Place]:
        """Every stage of the target and of levels."""
        for pipeline, level in zip(self.plan.pipelines, (None, *self.levels), strict=True):
            for index, stage in enumerate(pipeline.stages):
                yield Place(pipeline.actor_of(index), stage, level or self.form_of(stage), level is None)

    def places_of(self, rank: int) -> list[Place]:
        """Return the stages that a rank holds."""
        return [place for place in self.places if place.stage.rank == rank]

    @property
    def targets(self) -> list[Place]:
        """The stages of the target."""
        return [place for place in self.places if place.is_target]

    def backends_of(self, rank: int) -> set[str]:
        """Return what a rank computes with: its stages, and the draft."""
        found = {backend_of(place.model.path).name for place in self.places_of(rank)}
        return found | ({backend_of(self.draft.path).name} if self.draft and self.plan.draft_rank == rank else set())

    @property
    def forms(self) -> tuple[ModelSummary, ...]:
        """The forms of the target that its stages hold, each once."""
        return tuple({place.model.path: place.model for place in self.targets}.values())

    def bytes_of(self, rank: int) -> int:
        """Return the bytes of weights that a rank holds."""
        mine = self.plan.stages_of(rank)
        alike = [mine] if self.model.num_cycles > 1 else [[stage] for stage in mine]
        total = sum(_bytes_of(self.form_of(stages[0]), stages) for stages in alike if stages)
        total += sum(_bytes_of(self.levels[level], [stage]) for level, stage in self.plan.level_stages_of(rank))
        if self.draft is not None and self.plan.draft_rank == rank:
            total += self.draft.file_bytes
        return total


def _bytes_of(model: ModelSummary, stages: Sequence[StagePlace]) -> int:
    """Return the bytes of some stages, which share what they have in common."""
    embeds = any(stage.first == 0 for stage in stages)
    projects = any(stage.has_exit or stage.last == model.layers - 1 for stage in stages)
    block = model.layers // model.num_cycles
    total = sum(model.layer_bytes[layer] for layer in {layer % block for stage in stages for layer in stage.layers})
    total += model.embedding_bytes if embeds else 0
    return total + (model.head_bytes if projects and not (embeds and model.is_tied) else 0)


def prepare(options: JobOptions, group: Group) -> Setup:
    """Find everything that a user can get wrong; JobError on all ranks if anything is."""
    check_cpus(group)
    model, other, draft, levels, plan = agree(group, lambda: _inspect(options, group))
    _check_same_files(group, [each for each in (model, other, *levels, draft) if each is not None])
    context = options.context or min(DEFAULT_CONTEXT, model.context)
    computing = plan.num_computing(group.rank)
    usable = usable_cores()
    mine = msgpack.packb([hostname(), host_identity(), usable.count, computing, usable.reason])
    everyone = [msgpack.unpackb(theirs) for theirs in gather(group, mine)]
    threads = []
    for _, identity, cores, *_ in everyone:
        sharing = sum(count for _, other, _, count, _ in everyone if other == identity)
        threads.append(options.threads or max(1, cores // max(1, sharing)))
    reasons = tuple("" if options.threads else reason for *_, reason in everyone)
    hosts = tuple(host for host, *_ in everyone)
    setup = Setup(model, draft, plan, hosts, tuple(threads), context, levels, reasons, other)
    kept = exactness.chosen(options.exactness, options.parallel, len(plan.stages))
    contexts = exactness.num_contexts(kept, options.parallel, setup.forms)
    is_shared = contexts == 1 and (options.parallel > 1 or is_order_exact(setup.forms))
    if options.cells is not None and not is_shared:
        raise JobError(
            "--cells is for requests that share cells, and here each has as many as --ctx says to keep its text exact; "
            "leave it out, or add --exactness throughput with --parallel 2 or more."
        )
    return replace(
        setup,
        gpu_layers=gpu_layers(group, options.gpu_layers, "llama" in setup.backends_of(group.rank)),
        exactness=kept,
        contexts=contexts,
        cells=num_cells(options.cells, context, options.parallel, is_shared),
    )


def _inspect(
    options: JobOptions, group: Group
) -> tuple[ModelSummary, ModelSummary | None, ModelSummary | None, tuple[ModelSummary, ...], Plan]:
    try:
        other = _find(options.other_form, options.torch) if options.other_form else None
        model, other = chosen(_find(options.model, options.torch), other, options.backend)
        draft = _find(options.draft, options.torch) if options.draft else None
        levels = tuple(_find(level, options.torch) for level in reversed(options.cascade))
        plan = make_plan(group.size, model, draft is not None, options.layout, levels, options.exits)
        check_used(plan.stages, model, other, options.backend)
        places = [(form_of(stage, model, other), stage) for stage in plan.stages]
        places += [(level, stage) for level, stages in zip(levels, plan.levels, strict=True) for stage in stages]
        if draft is not None and plan.draft_rank is not None:
            places.append((draft, StagePlace(plan.draft_rank, 0, draft.layers - 1)))
        _check_places(places, options.insist, group.rank)
        for lower in (*levels, *([draft] if draft is not None else [])):
            _check_vocabularies(model, lower)
    except (ModelError, PlanError) as error:
        raise JobError(str(error)) from error
    if options.is_balanced and options.layout is not None:
        raise JobError("--balance finds out where layers go and --layout says it; give one of them.")
    if options.is_balanced and model.num_cycles > 1:
        raise JobError(f"--balance moves layers, and {model.path.name} has the same in every cycle; leave it out.")
    forms = (model, other, draft, *levels)
    if options.torch != TorchOptions() and not any(each.path.is_dir() for each in forms if each is not None):
        raise JobError(
            "--dtype, --device, --quantization and --trust-remote-code are for Hugging Face models on torch; "
            "leave them out with GGUF files."
        )
    if options.context is not None and options.context > model.context:
        raise JobError(
            f"--ctx {options.context} is more than the {model.context} positions {model.path.name} was trained for; "
            f"use --ctx {model.context} or less."
        )
    mixed = (options.drafter or "").split("+")
    if "draft" in mixed and draft is None:
        raise JobError(f"--drafter {options.drafter} needs a draft model; name one with --draft MODEL.")
    if EXIT in mixed and not plan.has_exit:
        raise JobError(f"--drafter {options.drafter} needs a stage that drafts; name one with --exit STAGE.")
    return model, other, draft, levels, plan


def _find(name: str | None, torch: TorchOptions) -> ModelSummary:
    path = default.resolve(name, torch.runs_code)
    if path.is_dir():
        hf_folder.check_code(path, torch.runs_code)
    return backend_of(path).inspect(path)


def _check_places(places: list[tuple[ModelSummary, StagePlace]], insist: bool, rank: int) -> None:
    """Raise ModelError unless models may be cut into these stages, and this rank can compute its own."""
    for model, stage in places:
        backend = backend_of(model.path)
        if len(stage.layers) < model.layers:
            backend.check_cuts(model, [stage.layers], insist)
        if stage.rank == rank:
            backend.check_here()


def _check_same_files(group: Group, models: list[ModelSummary]) -> None:
    """Raise JobError unless every rank read the same headers: each plans and cuts from its own copy."""
    mine = repr([(each.header_digest, each.file_bytes) for each in models]).encode()
    everyone = gather(group, mine)
    for rank, theirs in enumerate(everyone):
        if theirs != everyone[0]:
            raise JobError(
                f"Rank {rank} has another file of that name than rank 0; "
                "copy the same model to the same path on every host."
            )


def _check_vocabularies(model: ModelSummary, draft: ModelSummary) -> None:
    if not backend_of(model.path).num_shared_tokens(model, draft):
        raise JobError(
            f"The draft {draft.path.name} has another vocabulary than {model.path.name}, so its draft tokens would "
            "mean other words; use a draft of the same model family."
        )


def num_cells(asked: int | None, context: int, parallel: int, is_shared: bool) -> int:
    """Return how many positions a cache has cells for that several requests use. Raises JobError.

    By default a quarter of what requests at once could fill, since few do, and two texts at least, so that two chats
    that take turns keep theirs. Without sharing the caches of the target are sized otherwise, and those of what drafts
    for it hold what all requests could fill.
    """
    if asked is None:
        return context * (max(2, -(-parallel // 4)) if is_shared else parallel)
    if asked < context:
        raise JobError(f"--cells {asked} is too few for one request of {context} positions; use {context} or more.")
    return asked


def num_sequences(parallel: int) -> int:
    """Return how many sequence ids the caches get: one a request, and branches for their trees."""
    return min(256, parallel + 128)


def check_cpus(group: Group) -> None:
    """Raise JobError on all ranks, naming the hosts, if any would die of an illegal instruction. Collective.

    To be called before anything loads libllama: even that can be too much for a CPU.
    """
    everyone = [msgpack.unpackb(theirs) for theirs in gather(group, msgpack.packb([hostname(), cpu_needs.missing()]))]
    hosts = [host for host, missing in everyone if missing]
    if hosts:
        flags = next(missing for _, missing in everyone if missing)
        raise JobError(cpu_needs.sentence(sorted(set(hosts)), flags))
