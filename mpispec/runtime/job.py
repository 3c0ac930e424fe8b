"""One job on all its ranks: agree on a plan, load, run the loop, gather what happened.

Every rank runs the same code. What a user can get wrong is found before anything is loaded, and told once, on rank 0,
by every rank raising the same `JobError`; what goes wrong later ends the whole job at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from mpispec.runtime.balance import advice
from mpispec.runtime.engine import Engine
from mpispec.runtime.group import Group, agree, gather
from mpispec.runtime.loading import Models, Progress, load
from mpispec.runtime.rank import Rank, RankReport, read_report
from mpispec.runtime.row_costs import pipeline_costs
from mpispec.runtime.setup import MOST_ROWS, JobOptions, Setup, prepare
from mpispec.runtime.text_promise import text_promise
from mpispec.runtime.trace import Trace
from mpispec.transport.limits import Limits
from mpispec.wire.activations import row_bytes

__all__ = ["JobOptions", "Outcome", "RankReport", "Setup", "prepare", "run"]

T = TypeVar("T")

_MOST_REPORT = 256 << 20
"""Bytes of a rank's report; only traces are long."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What is left of a job on rank 0."""

    value: T
    """What the application returned."""
    ranks: list[RankReport]


def run(
    options: JobOptions,
    group: Group,
    setup: Setup,
    stops: frozenset[int],
    application: Callable[[Engine], T],
    progress: Progress,
    prepare_models: Callable[[Models], Models] = lambda models: models,
) -> Outcome[T] | None:
    """Load, run until the application on rank 0 has returned, gather the reports; None on other ranks.

    The application uses the engine in a thread of its own; what it raises is raised here once all ranks have ended. A
    benchmark puts something around the loaded models with `prepare_models`.
    """
    models = prepare_models(agree(group, lambda: load(options, group.rank, setup, progress)))
    group.open(_limits(options, setup))
    costs = pipeline_costs(group, models, setup, options.wire)
    if sentence := advice(options, setup, costs[0].stages_s):
        progress(sentence)
    trace = Trace(options.is_traced, options.is_timed)
    offset = group.clock_offset() if trace.is_timed else 0.0
    promise = text_promise(group, options, setup, models.arithmetic, costs[0].is_row_exact)
    progress(f"text: {promise}")
    rank = Rank(options, group, setup, models, costs, trace)
    if group.rank != 0:
        rank.follow()
        gather(group, rank.report(offset), _MOST_REPORT)
        return None
    value = rank.lead(stops, application, promise)
    reports = gather(group, rank.report(offset), _MOST_REPORT)
    return Outcome(value, [read_report(report, index, setup) for index, report in enumerate(reports)])


def _limits(options: JobOptions, setup: Setup) -> Limits:
    width = max(model.width for model in (setup.model, *setup.levels))
    return Limits.for_rows(MOST_ROWS, row_bytes(options.wire, width), setup.context)
