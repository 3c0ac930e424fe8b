"""One job on all its ranks: join, agree on a plan, load, run the loop, gather what happened.

Every rank runs the same code. What a user can get wrong is found before anything is loaded, and told once, on rank 0,
by every rank returning the same `JobError`; what goes wrong later ends the whole job at once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import msgpack

from mpispec.compute.base import DraftModel, StageModel
from mpispec.core.draft import DraftCore
from mpispec.core.effects import Emit
from mpispec.core.head import HeadConfig, HeadCore
from mpispec.core.ids import HEAD, Actor
from mpispec.core.stage import StageCore
from mpispec.core.strategy import Proposer
from mpispec.models import cut, default, registry
from mpispec.models.errors import ModelError
from mpispec.models.gguf_file import read
from mpispec.models.registry import ModelSummary
from mpispec.proposers.ngram import NGram
from mpispec.proposers.oracle import Oracle
from mpispec.runtime.driver import Core, Driver
from mpispec.runtime.group import Group, JobError, agree, gather
from mpispec.runtime.head_engine import HeadEngine
from mpispec.runtime.plan import Plan, PlanError, StagePlace, make_plan
from mpispec.runtime.trace import Event as TraceEvent
from mpispec.runtime.trace import Trace
from mpispec.runtime.worker import DraftWorker, StageWorker, Worker
from mpispec.strategies import PRESETS
from mpispec.transport.environment import host_identity, hostname
from mpispec.transport.limits import Limits
from mpispec.wire.activations import row_bytes

T = TypeVar("T")
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
    insist: bool = False
    """Run architectures that are not certified."""
    is_traced: bool = False
    chunk: int = 64
    """Rows of a prefill run."""


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
            total += self.model.head_bytes if stage.last == self.model.layers - 1 and stage.first else 0
        if self.draft is not None and self.plan.draft_rank == rank:
            total += self.draft.file_bytes
        return total


@dataclass(slots=True)
class Recording:
    """The text that the oracle knows; empty until a plain run has written it."""

    tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class RankReport:
    """What one rank did during the job."""

    rank: int
    host: str
    roles: list[str]
    layers: list[list[int]]
    """First and last layer of each stage it held."""
    busy: float
    """Share of the job's wall time that its busiest compute was computing."""
    clock_offset: float
    """Seconds to add to its monotonic clock to get rank 0's."""
    events: Sequence[TraceEvent]


@dataclass(frozen=True, slots=True)
class Session:
    """What an application on rank 0 works with."""

    engine: HeadEngine
    setup: Setup
    recording: Recording


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What is left of a job on rank 0."""

    value: T
    """What the application returned."""
    ranks: list[RankReport]


def prepare(options: JobOptions, group: Group) -> Setup:
    """Find everything that a user can get wrong; JobError on all ranks if anything is."""
    model, draft, plan = agree(group, lambda: _inspect(options, group.size))
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


def run(
    options: JobOptions,
    group: Group,
    setup: Setup,
    stops: frozenset[int],
    application: Callable[[Session], T],
    progress: Callable[[str], None],
) -> Outcome[T] | None:
    """Load, run until the application on rank 0 has returned, gather the reports; None on other ranks.

    The application runs in a thread of its own; what it raises is raised here once all ranks have ended.
    """
    models = agree(group, lambda: _load(options, group.rank, setup, progress))
    group.open(_limits(options, setup))
    trace = Trace(options.is_traced)
    offset = group.clock_offset() if options.is_traced else 0.0
    rank = _Rank(options, group, setup, models, trace)
    try:
        if group.rank != 0:
            rank.follow()
            gather(group, rank.report(offset), _MOST_REPORT)
            return None
        value = rank.lead(stops, application)
        reports = gather(group, rank.report(offset), _MOST_REPORT)
    finally:
        rank.close()
    return Outcome(value, [_read_report(report, index, setup) for index, report in enumerate(reports)])


# -- before loading -----------------------------------------------------------------------------------------------


def _inspect(options: JobOptions, num_ranks: int) -> tuple[ModelSummary, ModelSummary | None, Plan]:
    try:
        model = registry.inspect(default.resolve(options.model))
        draft = registry.inspect(default.resolve(options.draft)) if options.draft else None
        plan = make_plan(num_ranks, model, draft is not None, options.layout)
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
    return model, draft, plan


def _check_vocabularies(model: ModelSummary, draft: ModelSummary) -> None:
    if model.vocabulary_digest != draft.vocabulary_digest:
        raise JobError(
            f"The draft {draft.path.name} has another vocabulary than {model.path.name}, so its guesses would mean "
            "other words; use a draft of the same model family."
        )


# -- loading ------------------------------------------------------------------------------------------------------


def _limits(options: JobOptions, setup: Setup) -> Limits:
    return Limits.for_rows(options.chunk, row_bytes(options.wire, setup.model.width), setup.context)


def _load(
    options: JobOptions, rank: int, setup: Setup, progress: Callable[[str], None]
) -> dict[Actor, StageModel | DraftModel]:
    models: dict[Actor, StageModel | DraftModel] = {}
    try:
        for index, stage in enumerate(setup.plan.stages):
            if stage.rank == rank:
                models[Actor(index + 1)] = _load_stage(options, setup, stage, progress)
        if setup.plan.draft_rank == rank and setup.plan.draft is not None:
            models[setup.plan.draft] = _load_draft(options, setup, setup.threads[rank], progress)
    except ModelError as error:
        raise JobError(str(error)) from error
    return models


def _load_stage(
    options: JobOptions, setup: Setup, stage: StagePlace, progress: Callable[[str], None]
) -> StageModel:
    from mpispec.compute.llama_stage import LlamaStage  # noqa: PLC0415  loads libllama: only where it computes

    progress(f"layers {stage.first}-{stage.last} of {setup.model.path.name}")
    whole = len(setup.plan.stages) == 1
    path = setup.model.path if whole else cut.part(setup.model.path, stage.layers, insist=options.insist)
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


def _load_draft(
    options: JobOptions, setup: Setup, threads: int, progress: Callable[[str], None]
) -> DraftModel:
    from mpispec.compute.llama_draft import LlamaDraft  # noqa: PLC0415  loads libllama: only where it computes

    assert setup.draft is not None
    progress(f"draft {setup.draft.path.name}")
    return LlamaDraft(
        setup.draft.path,
        context=setup.context,
        slots=options.parallel,
        threads=threads,
        max_rows=options.chunk,
    )


def num_sequences(parallel: int) -> int:
    """Return how many sequence ids the caches get: one a request, and branches for their trees."""
    return min(256, parallel + 32)


# -- running ------------------------------------------------------------------------------------------------------


class _Rank:
    """The cores, the workers and the driver of this rank."""

    def __init__(
        self,
        options: JobOptions,
        group: Group,
        setup: Setup,
        models: dict[Actor, StageModel | DraftModel],
        trace: Trace,
    ) -> None:
        self._options = options
        self._group = group
        self._setup = setup
        self._models = models
        self._trace = trace
        self._recording = Recording()
        self._wall_s = 0.0
        plan = setup.plan
        self._cores: dict[Actor, Core] = {}
        self._workers: dict[Actor, Worker] = {}
        if group.rank == 0:
            self._cores[HEAD] = self._head()
        for actor, model in models.items():
            if actor == plan.draft:
                self._cores[actor] = DraftCore(options.chunk)
                self._workers[actor] = DraftWorker("draft", group.wake, trace, model)  # type: ignore[arg-type]
            else:
                core = StageCore(actor, plan.num_stages, _QUEUE_LIMIT * plan.num_stages)
                self._cores[actor] = core
                self._workers[actor] = StageWorker(
                    f"stage {actor}",
                    group.wake,
                    trace,
                    model,  # type: ignore[arg-type]
                    core.is_last,
                    options.wire,
                    setup.model.width,
                )

    def lead(self, stops: frozenset[int], application: Callable[[Session], T]) -> T:
        """Run the application beside the driver; return what it returned."""
        options, model = self._options, self._setup.model
        engine = HeadEngine(
            self._setup.context,
            model.vocabulary,
            stops,
            tuple(PRESETS),
            self._proposer_names(),
            options.strategy,
            self._default_proposer(),
        )
        driver = self._driver(engine.emitted)
        engine.attach(driver.submit)
        session = Session(engine, self._setup, self._recording)
        runner = _Application(lambda: application(session), engine.stop)
        try:
            self._drive(driver)
        finally:
            engine.fail()
        return runner.result()

    def follow(self) -> None:
        """Run the driver until the head says stop."""
        self._drive(self._driver(None))

    def close(self) -> None:
        """End the compute threads and free the models."""
        for worker in self._workers.values():
            worker.close()
        for model in self._models.values():
            model.close()

    def report(self, offset: float) -> bytes:
        """Return what this rank tells rank 0 at the end."""
        busy = max((worker.busy_s for worker in self._workers.values()), default=0.0)
        packed: bytes = msgpack.packb([busy / max(self._wall_s, 1e-9), offset, self._trace.events])
        return packed

    def _drive(self, driver: Driver) -> None:
        start = self._group.now()
        driver.run()
        self._wall_s = self._group.now() - start

    def _driver(self, emit: Callable[[Emit, float], None] | None) -> Driver:
        return Driver(self._setup.plan, self._group.transport, self._cores, self._workers, self._trace, emit)

    def _head(self) -> HeadCore:
        options, model = self._options, self._setup.model
        config = HeadConfig(
            num_stages=self._setup.plan.num_stages,
            draft=self._setup.plan.draft,
            context=self._setup.context,
            sequences=num_sequences(options.parallel),
            max_active=options.parallel,
            chunk=options.chunk,
        )
        recording = self._recording
        proposers: dict[str, Callable[[], Proposer]] = {
            "ngram": NGram,
            "oracle": lambda: Oracle(recording.tokens, options.oracle_hit_rate, model.vocabulary),
        }
        return HeadCore(config, PRESETS, proposers)

    def _proposer_names(self) -> tuple[str, ...]:
        return ("none", "ngram", "oracle", *(["draft"] if self._setup.draft is not None else []))

    def _default_proposer(self) -> str:
        return self._options.proposer or ("draft" if self._setup.draft is not None else "ngram")


_MOST_REPORT = 256 << 20
"""Bytes of a rank's report; only traces are long."""
_QUEUE_LIMIT = 64
"""Messages that may wait in front of a stage, for each stage; the head's bound of runs in flight is far below."""


class _Application(Generic[T]):
    """The application's thread: when it returns or raises, the engine stops."""

    def __init__(self, application: Callable[[], T], stop: Callable[[], None]) -> None:
        self._application = application
        self._stop = stop
        self._error: BaseException | None = None
        self._value: T
        self._thread = threading.Thread(target=self._run, name="application", daemon=True)
        self._thread.start()

    def result(self) -> T:
        """Wait for the thread; return what the application returned or raise what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._value

    def _run(self) -> None:
        try:
            self._value = self._application()
        except BaseException as error:  # raised again by `result`
            self._error = error
        finally:
            self._stop()


def _read_report(report: bytes, rank: int, setup: Setup) -> RankReport:
    busy, offset, events = msgpack.unpackb(report, strict_map_key=False)
    layers = [[stage.first, stage.last] for stage in setup.plan.stages_of(rank)]
    return RankReport(rank, setup.hosts[rank], setup.plan.roles_of(rank), layers, busy, offset, events)


def model_path(options: JobOptions) -> Path:
    """Return the path of the target model; ModelError if there is none."""
    return default.resolve(options.model)
