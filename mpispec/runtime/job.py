"""One job on all its ranks, from joining it to leaving it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from mpispec.runtime import ngrams
from mpispec.runtime.balance import advice, balanced
from mpispec.runtime.context_memory import fitted
from mpispec.runtime.downloads import download
from mpispec.runtime.engine import Engine
from mpispec.runtime.group import Group, agree, gather, on_rank_0
from mpispec.runtime.host_room import check_memory
from mpispec.runtime.loading import Models, Say, held, load
from mpispec.runtime.process import joined
from mpispec.runtime.rank import Rank, RankReport, make_engine, read_reports
from mpispec.runtime.row_costs import pipeline_costs
from mpispec.runtime.setup import MOST_ROWS, JobOptions, Setup, prepare
from mpispec.runtime.text_promise import text_promise
from mpispec.trace import Trace
from mpispec.transport.base import Limits
from mpispec.wire.activations import row_bytes
from mpispec.wire.fields import MOST_GRAMMAR_BYTES

__all__ = ["FrontEnd", "JobOptions", "Outcome", "RankReport", "Setup", "run_job"]

T = TypeVar("T")

_MOST_REPORT = 256 << 20
"""Bytes of a rank's report; only traces are long."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What is left of a job on rank 0."""

    value: T
    """What `FrontEnd.serve` returned."""
    ranks: list[RankReport]


class FrontEnd(ABC, Generic[T]):
    """What a job is run for: `generate`, `serve`, a benchmark. Every rank has one; the person is at that of rank 0."""

    @abstractmethod
    def options(self) -> JobOptions:
        """Return what is asked of the job, the same on all ranks. Raises JobError."""

    @abstractmethod
    def open(self, group: Group, setup: Setup) -> frozenset[int]:
        """Find what else a user can get wrong, such as the prompt or the port; return the tokens that end an answer.

        Nothing is loaded yet. Collective; raises JobError on all ranks.
        """

    @abstractmethod
    def serve(self, engine: Engine) -> T:
        """Use the engine, on rank 0, in a thread of its own: the job ends when this returns or raises."""

    def say(self, sentence: str) -> None:
        """Say, on rank 0, what the job does; silent unless overridden."""

    def begin(self, group: Group, setup: Setup) -> None:
        """Note, on the main thread of every rank, that all is agreed and loading begins."""

    def wrap(self, models: Models, setup: Setup) -> Models:
        """Put something around the models of this rank, as a benchmark may."""
        return models

    def end(self, group: Group, outcome: Outcome[T] | None) -> None:
        """Report what came out; None but on rank 0. Collective: no rank leaves before all have come here."""


def run_job(front_end: FrontEnd[T]) -> Outcome[T] | None:
    """Run a job; return what came out on rank 0, None elsewhere.

    Every rank runs these lines. What a user can get wrong is found before anything is loaded and reported once,
    by rank 0, since every rank raises the same `JobError`; what goes wrong later ends all ranks at once (`joined`).
    """
    with joined() as group:
        say = front_end.say if group.rank == 0 else _silent

        # Plan: what is asked, which rank holds what, what the front end needs for itself.
        options = agree(group, front_end.options)
        setup = prepare(options, group)
        for warning in setup.warnings():
            say(f"warning: {warning}")
        stops = front_end.open(group, setup)
        check_memory(options, group, setup)
        said_before = on_rank_0(group, lambda: ngrams.opened(options, setup), None)
        setup = balanced(options, group, setup, say)
        front_end.begin(group, setup)

        # Download and load, and open the planes.
        options, setup, models = _loaded(options, group, setup, say)
        models = front_end.wrap(models, setup)
        group.open(_limits(options, setup))

        # Measure what runs and links cost here, and how the ranks' clocks differ.
        costs = pipeline_costs(group, models, setup, options)
        if sentence := advice(options, setup, costs[0].stages_s):
            say(sentence)
        trace = Trace(options.is_traced, options.is_timed)
        clock_offset = group.clock_offset() if trace.is_timed else 0.0

        # Promise.
        promise = text_promise(group, options, setup, models.arithmetic, costs[0].is_row_exact)
        say(f"text ({promise.exactness}): {promise}")

        # Serve: the cores and models of this rank run; on rank 0 the front end submits to the engine.
        engine = make_engine(options, setup, stops, promise) if group.rank == 0 else None
        rank = Rank(options, group, setup, models, costs, trace, engine, said_before)
        if engine is None:
            rank.follow()
        else:
            value = rank.lead(engine, front_end.serve)

        # End.
        reports = gather(group, rank.report(clock_offset), _MOST_REPORT)
        outcome = None if engine is None else Outcome(value, read_reports(reports, setup))
        front_end.end(group, outcome)
        on_rank_0(group, lambda: ngrams.keep(options, setup, said_before), None)
        return outcome


def _loaded(options: JobOptions, group: Group, setup: Setup, say: Say) -> tuple[JobOptions, Setup, Models]:
    """Return what this rank computes with, and the job as far as all ranks have memory for it. Collective."""
    check_memory(options, group, setup)
    download(group, held(setup, group.rank), say)
    models = agree(group, lambda: load(options, group.rank, setup, say))
    options, setup = fitted(options, group, setup, models.context_bytes, say)
    reads_apart = setup.contexts > 1 and setup.model.num_cycles == 1  # stages that share weights compute in one pass
    return options, replace(setup, plan=replace(setup.plan, reads_apart=reads_apart)), models


def _silent(_: str) -> None:
    """Say nothing: only rank 0 does."""


def _limits(options: JobOptions, setup: Setup) -> Limits:
    width = max(model.width for model in (setup.model, *setup.levels))
    return Limits.for_rows(MOST_ROWS, row_bytes(options.wire, width), setup.context, MOST_GRAMMAR_BYTES)
