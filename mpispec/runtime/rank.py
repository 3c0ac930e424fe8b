"""One rank while the job runs: its cores, its models, its driver."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar, cast

import msgpack

from mpispec.compute.base import ExitModel
from mpispec.compute.factory import backend_of, traits_of
from mpispec.compute.llama_traits import SPARE_CELLS
from mpispec.core.config import HeadConfig, queue_limit
from mpispec.core.draft import DraftCore
from mpispec.core.effects import Emit
from mpispec.core.head import HeadCore
from mpispec.core.ids import HEAD, Actor
from mpispec.core.level import LevelCore
from mpispec.core.request import EXIT
from mpispec.core.stage import StageCore
from mpispec.drafters import alone, in_head
from mpispec.drafters.oracle import Oracle
from mpispec.drafters.suffix_store import SuffixStore
from mpispec.grammars.compiler import Compiler
from mpispec.runtime.decider import Decider
from mpispec.runtime.driver import Core, Driver
from mpispec.runtime.engine import Engine
from mpispec.runtime.giving_way import GivingWay, PromptWorker
from mpispec.runtime.group import Group
from mpispec.runtime.liveness import watch
from mpispec.runtime.loading import Models
from mpispec.runtime.plan import Pipeline
from mpispec.runtime.row_costs import PipelineCosts
from mpispec.runtime.setup import MOST_ROWS, JobOptions, Setup, num_sequences
from mpispec.runtime.text_promise import TextPromise
from mpispec.runtime.worker import CycleWorker, DraftWorker, ExitWorker, StageWorker, Worker
from mpispec.strategies import PRESETS
from mpispec.trace import Event as TraceEvent
from mpispec.trace import Trace

T = TypeVar("T")

_LAST_WORDS_S = 0.5
"""Between telling listeners that the job breaks and breaking it: launchers end the front process with rank 0, and
clients are to get an answer before."""

_LEVEL_STRATEGY = "pipespec"
"""Dispatches the runs of every level of a cascade; what dispatches the target's runs is the user's choice."""


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


class Rank:
    """The cores, the workers and the driver of this rank."""

    def __init__(
        self,
        options: JobOptions,
        group: Group,
        setup: Setup,
        models: Models,
        costs: Sequence[PipelineCosts],
        trace: Trace,
        engine: Engine | None,
        said_before: SuffixStore | None,
    ) -> None:
        """`costs` are those of the target and on each level, as `Plan.pipelines`.

        `engine` and `said_before`, from which n-grams draft, are rank 0's.
        """
        self._options = options
        self._group = group
        self._setup = setup
        self._models = models
        self._trace = trace
        self._engine = engine
        self._said_before = said_before
        self._wall_s = 0.0
        path = setup.model.path
        self._grammars = Compiler(lambda: backend_of(path).open_tokenizer(path))
        self._cores: dict[Actor, Core] = {}
        self._workers: dict[Actor, Worker] = {}
        above = HEAD
        chain = zip(setup.models, (*setup.models[1:], None), strict=True)
        for pipeline, cost, (model, below) in zip(setup.plan.pipelines, costs, chain, strict=False):
            if pipeline.rank == group.rank:
                head = self._head(pipeline, cost, None if below is None else below.context)
                self._cores[pipeline.head] = head if pipeline.head == HEAD else LevelCore(head, above, _LEVEL_STRATEGY)
            self._add_stages(pipeline, model.width)
            above = pipeline.head
        if models.draft is not None:
            draft = setup.plan.draft
            assert draft is not None
            self._cores[draft] = DraftCore(
                MOST_ROWS, options.parallel, num_sequences(options.parallel), above, setup.cells + SPARE_CELLS
            )
            self._workers[draft] = DraftWorker("draft", trace, models.draft, self._decider())

    def lead(self, engine: Engine, serve: Callable[[Engine], T]) -> T:
        """Run the driver while `serve` uses the engine in a thread of its own; return what it returned."""
        driver = self._driver(engine.emitted)
        engine.attach(driver.submit, driver)
        served: Future[T] = Future()

        def use() -> None:
            try:
                served.set_result(serve(engine))
            except BaseException as error:  # raised again by `result`
                served.set_exception(error)
            finally:
                engine.stop()

        threading.Thread(target=use, name="front end", daemon=True).start()
        try:
            self._drive(driver)
        except Exception:
            engine.fail()
            time.sleep(_LAST_WORDS_S)
            raise
        finally:
            engine.fail()
        return served.result()

    def follow(self) -> None:
        """Run the driver until the head says stop."""
        self._drive(self._driver(None))

    def report(self, offset: float) -> bytes:
        """Return what this rank reports to rank 0 at the end."""
        busy = max((worker.busy_s for worker in self._workers.values()), default=0.0)
        packed: bytes = msgpack.packb([busy / max(self._wall_s, 1e-9), offset, self._trace.events])
        return packed

    def _drive(self, driver: Driver) -> None:
        """Run the driver to its end, then free the models.

        Where it raises they stay: a thread may still compute with one, and the process is about to end.
        """
        start = time.monotonic()
        driver.run()
        self._wall_s = time.monotonic() - start
        self._models.close()

    def _driver(self, emit: Callable[[Emit, float], None] | None) -> Driver:
        plan, rank = self._setup.plan, self._group.rank
        liveness = watch(plan, rank, self._setup.hosts)
        return Driver(plan, self._group.transport, self._cores, self._workers, self._trace, emit, liveness)

    def _add_stages(self, pipeline: Pipeline, width: int) -> None:
        """Add the stages of a pipeline that this rank holds."""
        num_stages = len(pipeline.stages)
        workers: dict[Actor, StageWorker] = {}
        for index in range(num_stages):
            actor = pipeline.actor_of(index)
            model = self._models.stages.get(actor)
            if model is None:
                continue
            has_exit = pipeline.stages[index].has_exit
            limit = queue_limit(num_stages, self._options.parallel)
            core = StageCore(actor, num_stages, limit, pipeline.head, has_exit)
            self._cores[actor] = core
            name, wire, decider = self._setup.plan.role_of(actor), self._options.wire, self._decider()
            if has_exit:
                workers[actor] = ExitWorker(name, self._trace, cast(ExitModel, model), wire, width, decider)
            else:
                workers[actor] = StageWorker(name, self._trace, model, core.is_last, wire, width, decider)
        if pipeline.head == HEAD and self._setup.plan.readers is not None:
            self._add_readers(self._setup.plan.readers, workers, width)
        elif self._models.together is not None and pipeline.head == HEAD:
            shared = CycleWorker(self._trace, workers, self._models.together)
            self._workers.update(dict.fromkeys(workers, shared))
        else:
            self._workers.update(workers)

    def _add_readers(self, readers: Actor, workers: Mapping[Actor, StageWorker], width: int) -> None:
        """Add the target's stages that this rank holds once more, for prompts (ADR 0048)."""
        num_stages = self._setup.plan.num_stages
        limit = queue_limit(num_stages, self._options.parallel)
        for actor, rows in workers.items():
            reader = Actor(readers + actor)
            core = self._cores[reader] = StageCore(reader, num_stages, limit, readers=readers)
            model, wire = self._models.stages[actor], self._options.wire
            prompts = PromptWorker(rows.name, self._trace, model, core.is_last, wire, width, self._decider())
            gives_way = backend_of(self._setup.form_of(self._setup.plan.stages[actor - 1]).path).gives_way
            self._workers[actor] = self._workers[reader] = GivingWay(
                self._trace, (actor, rows), (reader, prompts), gives_way
            )

    def _decider(self) -> Decider:
        return Decider(self._grammars.walk)

    def _head(self, pipeline: Pipeline, costs: PipelineCosts, draft_context: int | None) -> HeadCore:
        options, setup, model = self._options, self._setup, self._setup.model
        # What drafts may be wrong, so levels share cells.
        has_own_cells = setup.contexts > 1 and pipeline.head == HEAD
        config = HeadConfig(
            num_stages=len(pipeline.stages),
            draft=pipeline.below,
            context=setup.context,
            sequences=num_sequences(1 if has_own_cells else options.parallel),
            rows_cost=costs.rows,
            past_cost=costs.past,
            link_delay=costs.link_delay,
            link_row=costs.link_row,
            draft_step=costs.draft_step,
            draft_pair=costs.draft_pair,
            crowd=costs.crowd,
            draft_toll=costs.draft_toll,
            draft_context=draft_context,
            traits=traits_of(
                setup.forms,
                keeps_order=options.parallel == 1 or has_own_cells,
                is_row_exact=costs.is_row_exact,
                has_own_cells=has_own_cells,
            ),
            cells=setup.cells + SPARE_CELLS,
            max_active=options.parallel,
            name="the target" if pipeline.head == HEAD else f"level {pipeline.number} of the cascade",
            actor=pipeline.head,
            readers=setup.plan.readers if pipeline.head == HEAD else None,
        )

        def oracle() -> Oracle:
            recorded = () if self._engine is None else self._engine.recorded
            return Oracle(recorded, options.oracle_acceptance_rate, model.vocabulary)

        soon = self._grammars.soon  # a head that compiles lets everyone wait
        return HeadCore(config, PRESETS, {**in_head(self._said_before, soon), "oracle": alone(oracle, soon)})


def make_engine(options: JobOptions, setup: Setup, stops: frozenset[int], promise: TextPromise) -> Engine:
    """Return the engine of rank 0."""
    drafts = ["draft", "draft+ngram"] if setup.draft is not None else []
    exits = [EXIT, f"{EXIT}+ngram"] if setup.plan.has_exit else []
    drafters = ("none", "ngram", "oracle", *drafts, *exits)
    default = options.drafter or ("draft" if drafts else EXIT if exits else "ngram")
    vocabulary = setup.model.vocabulary
    engine = Engine(setup.context, vocabulary, stops, tuple(PRESETS), drafters, options.strategy, default, promise)
    plan = setup.plan
    engine.places = tuple(
        {"host": host, "roles": plan.roles_of(rank), "layers": _layers_of(setup, rank)}
        for rank, host in enumerate(setup.hosts)
    )
    return engine


def _layers_of(setup: Setup, rank: int) -> list[list[int]]:
    """Return the first and the last layer of each stage of the target that a rank holds."""
    return [[stage.first, stage.last] for stage in setup.plan.stages_of(rank)]


def read_reports(reports: Sequence[bytes], setup: Setup) -> list[RankReport]:
    """Return what the ranks reported at the end, in their order."""
    plan, found = setup.plan, []
    for rank, report in enumerate(reports):
        busy, offset, events = msgpack.unpackb(report, strict_map_key=False)
        layers = _layers_of(setup, rank)
        found.append(RankReport(rank, setup.hosts[rank], plan.roles_of(rank), layers, busy, offset, events))
    return found
