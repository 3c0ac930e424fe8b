"""What runs of several rows and links cost here, measured before the first request (docs/strategies.md, auto)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from mpispec.compute.base import StageModel
from mpispec.compute.factory import is_order_exact
from mpispec.core.ids import HEAD, Actor, Pos, SeqId
from mpispec.core.messages import CacheOp, CacheOpKind
from mpispec.core.row_times import interpolated
from mpispec.runtime.group import Group, merged
from mpispec.runtime.link_costs import link_cost
from mpispec.runtime.loading import Models
from mpispec.runtime.setup import JobOptions, Setup
from mpispec.runtime.shared_cores import shared_cores
from mpispec.runtime.trial import are_rows_exact, trial
from mpispec.wire.activations import row_bytes

_SIZES = (1, 2, 4, 8, 16)
"""Each double the one before; sizes between are interpolated, those beyond extended in a straight line."""
_REPEATS = 3
_BUDGET_S = 0.3
_BUDGET_ROWS = 20.0
"""Where one row takes long, the budget is the time of this many, up to `_MOST_S`: loading took longer still."""
_MOST_S = 2.0
_HALF, _TILE = 32, 64
"""Rows of the runs that are measured as well where prompts share runs with newest tokens (ADR 0053)."""
_TRIES = 8
_TILES, _TILES_S = (4, 9), 2.0
"""How many runs of a tile say, one behind the other, what cached positions cost: the least, the most, and for how many
seconds these are computed. A model that takes longer has so large layers that attention hardly counts."""


@dataclass(frozen=True, slots=True)
class PipelineCosts:
    """What a head knows of its stages and links."""

    rows: tuple[float, ...]
    """Time of 1, 2, 3, ... rows on the slowest stage, as multiples of one row's."""
    link_delay: float
    """Time of an empty message on the slowest link between two stages, as a multiple of one row's."""
    link_row: float
    """What an activation row adds to that."""
    draft_step: float
    """Time of a step of the draft with one row, as a multiple of one row's on a stage; 1 without a draft."""
    draft_pair: float
    """Time of a step of the draft with two rows, as a multiple of one row's; 1 without a draft."""
    stages_s: tuple[float, ...]
    """Seconds of one row on each stage."""
    is_row_exact: bool
    """Whether a row has the same bits in runs of any size, with any number of threads."""
    past: tuple[float, float] = (0.0, 0.0)
    """See `HeadConfig.past_cost`."""
    crowd: float = 1.0
    """See `HeadConfig.crowd`."""
    draft_toll: float = 0.0
    """See `HeadConfig.draft_toll`."""


class LongRuns(NamedTuple):
    """What runs of a prompt cost a stage, in seconds."""

    half: float
    """A run of 32 rows."""
    tile: float
    """A run of 64 rows."""
    past: float
    """What a cached position adds to each row of a shorter run."""
    past_in_tile: float
    """What it adds to each row of a run of 64."""


def pipeline_costs(group: Group, models: Models, setup: Setup, options: JobOptions) -> list[PipelineCosts]:
    """Measure the target and each level of a cascade, as `Plan.pipelines`. Collective; `group` must be open."""
    found = []
    draft = _draft_seconds(group, models, setup)
    for model, pipeline in zip((setup.model, *setup.levels), setup.plan.pipelines, strict=True):
        actors = [pipeline.actor_of(index) for index in range(len(pipeline.stages))]
        stages = {actor: models.stages[actor] for actor in actors if actor in models.stages}
        tables = row_tables(group, stages, actors[0], model.width)
        shares_runs = options.parallel > 1 and (pipeline.head != HEAD or setup.exactness == "throughput")
        long = None
        if shares_runs and not is_order_exact(setup.forms):
            long = long_runs(group, stages, actors[0], model.width)
        seconds = slowest_seconds(tables, long)
        past = (long.past / seconds[0], long.past_in_tile / seconds[0]) if long else (0.0, 0.0)
        link = link_cost(group, [stage.rank for stage in pipeline.stages], row_bytes(options.wire, model.width))
        rows = tuple(max(1.0, each / seconds[0]) for each in seconds)
        step, pair = (draft[0] / seconds[0], draft[1] / draft[0]) if draft else (1.0, 1.0)
        stages_s = tuple(tables[actor][0] for actor in actors)
        is_exact = are_rows_exact(group, stages, actors[0], model.width, models.arithmetic)
        delay, row = link.delay_s / seconds[0], link.row_s / seconds[0]
        found.append(PipelineCosts(rows, delay, row, step, pair, stages_s, is_exact, past))
    return found if setup.levels else [_shared(found[0], group, models, setup)]


def _shared(costs: PipelineCosts, group: Group, models: Models, setup: Setup) -> PipelineCosts:
    """Return the costs with what actors of one host take from each other. Collective.

    Not of cascades: each of their levels dispatches whenever it can, whatever that takes from others.
    """
    draft = None if setup.plan.draft is None else (setup.plan.draft, models.draft)
    # Stages that share their weights compute in one pass, so they take nothing from each other.
    stages = dict([*models.stages.items()][:1]) if models.together is not None else models.stages
    sharing = shared_cores(group, stages, draft, setup.model.width, setup.threads[group.rank])
    if sharing is None:
        return costs
    # Stages that share a core were measured at once above, the draft alone: here all were alone.
    step = sharing.step_s / sharing.unit_s if sharing.crowd > 1.0 and sharing.step_s else costs.draft_step
    toll = step * sharing.toll_s / sharing.step_s if sharing.step_s else 0.0
    return replace(costs, draft_step=step, crowd=sharing.crowd, draft_toll=toll)


def _draft_seconds(group: Group, models: Models, setup: Setup) -> list[float]:
    """Return the time of a step of the draft with one and with two rows; nothing without a draft."""
    actor = setup.plan.draft
    if setup.draft is None or actor is None:
        return []
    drafts = {actor: models.draft} if models.draft is not None else {}
    return slowest_seconds(row_tables(group, drafts, actor, setup.draft.width, _SIZES[:2]))


def row_tables(
    group: Group, stages: Mapping[Actor, StageModel], first: Actor, width: int, sizes: Sequence[int] = _SIZES
) -> dict[Actor, list[float]]:
    """Return the seconds of runs of `sizes` rows on the stages of all ranks, as many as each measured. Collective.

    `stages` are those of this rank, `first` is the one that takes tokens instead of activations.
    """
    mine = {actor: _seconds(stage, actor == first, width, sizes) for actor, stage in stages.items()}
    return merged(group, mine)


def slowest_seconds(tables: Mapping[Actor, Sequence[float]], long: LongRuns | None = None) -> list[float]:
    """Return the time of 1, 2, 3, ... rows on the slowest stage, up to the most that all have measured.

    A disturbed measurement of a long run says no more than that it takes as long as its parts.
    """
    slowest = [max(times) for times in zip(*tables.values(), strict=False)]
    known = dict(zip(_SIZES, slowest, strict=False))
    if long is not None:
        for size, seconds in ((_HALF, long.half), (_TILE, long.tile)):
            last = max(known)
            known[size] = min(max(known[last], seconds), known[last] * size / last)
    return list(interpolated(known))


def long_runs(group: Group, stages: Mapping[Actor, StageModel], first: Actor, width: int) -> LongRuns:
    """Return what runs of a prompt cost the slowest of all stages. Collective; arguments as for `row_tables`."""
    mine = {actor: list(_long_runs(stage, None if actor == first else width)) for actor, stage in stages.items()}
    return LongRuns(*(max(times) for times in zip(*merged(group, mine).values(), strict=True)))


def _long_runs(stage: StageModel, width: int | None) -> LongRuns:
    """Measure a stage that takes tokens, or activations of `width` numbers a row."""

    def seconds(size: int, past: int = 0, is_kept: bool = False) -> float:
        activations = None if width is None else np.zeros((size, width), np.float32)
        return trial(stage, size, activations, past, is_kept).seconds

    alone = min(seconds(1) for _ in range(_TRIES))
    half = min(seconds(_HALF) for _ in range(2))
    tiles = [seconds(_TILE, is_kept=True)]
    while len(tiles) < _TILES[1] and sum(tiles) + tiles[-1] <= _TILES_S:
        tiles.append(seconds(_TILE, past=len(tiles) * _TILE, is_kept=True))
    past = by_row = in_tile = 0.0
    if len(tiles) >= _TILES[0]:
        past = float(len(tiles) * _TILE)
        by_row = (min(seconds(1, past=int(past)) for _ in range(_TRIES)) - alone) / past
        few = len(tiles) // 2  # the least of each half: what disturbs a run makes it longer
        in_tile = (min(tiles[-few:]) - min(tiles[:few])) / (_TILE * _TILE * (len(tiles) - few))
    stage.apply([CacheOp(CacheOpKind.DROP, SeqId(0), SeqId(0), Pos(0), -1)])
    return LongRuns(half, min(tiles), max(0.0, by_row), max(0.0, in_tile))


def _seconds(stage: StageModel, is_first: bool, width: int, sizes: Sequence[int]) -> list[float]:
    """Return the best of a few times for each of the sizes that the budget allows.

    What disturbs a measurement only ever makes it longer; a run takes at least the time of one half, at most of both.
    """
    left = _BUDGET_S
    seconds: list[float] = []
    for size in sizes:
        activations = None if is_first else np.zeros((size, width), np.float32)
        expected = 2.0 * seconds[-1] if seconds else 0.0
        if len(seconds) > 1 and expected > left:
            break
        best = math.inf
        for repeat in range(_REPEATS):
            if repeat and best > left:
                break
            spent = trial(stage, size, activations).seconds
            best, left = min(best, spent), left - spent
        if not seconds:
            left += max(0.0, min(_MOST_S, _BUDGET_ROWS * best) - _BUDGET_S)
        seconds.append(min(max(best, seconds[-1]), expected) if seconds else best)
    return seconds
