"""What runs of several rows and links cost here, measured before the first request (docs/strategies.md, auto)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
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
_TILE = 64
"""Rows of the longest run that is measured where prompts share runs with newest tokens (ADR 0053)."""
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


class ReadingCosts(NamedTuple):
    """What runs of up to a tile cost a stage, in times of a run of one row."""

    rows: tuple[float, ...]
    """By `_SIZES`, then 32 and 64 rows."""
    past: float
    """What a cached position adds to each row of a shorter run."""
    past_in_tile: float
    """What it adds to each row of a tile."""


def pipeline_costs(group: Group, models: Models, setup: Setup, options: JobOptions) -> list[PipelineCosts]:
    """Measure the target and each level of a cascade, as `Plan.pipelines`. Collective; `group` must be open."""
    found = []
    draft = _draft_seconds(group, models, setup)
    for model, pipeline in zip((setup.model, *setup.levels), setup.plan.pipelines, strict=True):
        actors = [pipeline.actor_of(index) for index in range(len(pipeline.stages))]
        stages = {actor: models.stages[actor] for actor in actors if actor in models.stages}
        tables = row_tables(group, stages, actors[0], model.width)
        seconds = slowest_seconds(tables)
        rows = tuple(max(1.0, each / seconds[0]) for each in seconds)
        past = (0.0, 0.0)
        shares_runs = options.parallel > 1 and (pipeline.head != HEAD or setup.exactness == "throughput")
        if shares_runs and not is_order_exact(setup.forms):
            has_gpu = any(setup.gpu_layers)
            rows, *slopes = reading_costs(group, stages, actors[0], model.width, has_gpu)
            past = (slopes[0], slopes[1])
        link = link_cost(group, [stage.rank for stage in pipeline.stages], row_bytes(options.wire, model.width))
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


def slowest_seconds(tables: Mapping[Actor, Sequence[float]]) -> list[float]:
    """Return the time of 1, 2, 3, ... rows on the slowest stage, up to the most that all have measured."""
    slowest = [max(times) for times in zip(*tables.values(), strict=False)]
    return list(interpolated(dict(zip(_SIZES, slowest, strict=False))))


def reading_costs(
    group: Group, stages: Mapping[Actor, StageModel], first: Actor, width: int, has_gpu: bool
) -> tuple[tuple[float, ...], float, float]:
    """Return what 1, 2, ..., 64 rows cost, and a cached position each row of a run and of a tile. Collective.

    All in times of one row, the most of all stages; other arguments as for `row_tables`.
    """
    clock = time.monotonic if has_gpu else time.thread_time
    mine = {actor: _reading(stage, None if actor == first else width, clock) for actor, stage in stages.items()}
    rows, past, in_tile = zip(*merged(group, mine).values(), strict=True)
    most = [max(each) for each in zip(*rows, strict=True)]
    return interpolated(dict(zip((*_SIZES, 32, _TILE), most, strict=True))), max(past), max(in_tile)


def _reading(stage: StageModel, width: int | None, clock: Callable[[], float]) -> ReadingCosts:
    """Measure a stage that takes tokens, or activations of `width` numbers a row.

    In processor time of this thread: where ranks share cores long runs are interrupted, and short ones are not, which
    would make rows seem to cost more than they do. A GPU computes while the thread waits.
    """

    def seconds(size: int, past: int = 0, is_kept: bool = False) -> float:
        activations = None if width is None else np.zeros((size, width), np.float32)
        start = clock()
        trial(stage, size, activations, past, is_kept)
        return clock() - start

    begin = clock()
    found: list[float] = []
    for size in (*_SIZES, 32):
        found.append(seconds(size))
        for _ in range(min(7, _TILE // size - 1) if clock() - begin < _TILES_S else 0):
            found[-1] = min(found[-1], seconds(size))
    begin = clock()
    tiles = [seconds(_TILE, is_kept=True)]
    while len(tiles) < _TILES[1] and clock() - begin + tiles[-1] <= _TILES_S:
        tiles.append(seconds(_TILE, past=len(tiles) * _TILE, is_kept=True))
    by_row = in_tile = 0.0
    if len(tiles) >= _TILES[0]:
        past, few = len(tiles) * _TILE, len(tiles) // 2
        by_row = (min(seconds(1, past=past) for _ in range(8)) - found[0]) / past
        # The least of each half: what disturbs a run only makes it longer.
        in_tile = (min(tiles[-few:]) - min(tiles[:few])) / (_TILE * _TILE * (len(tiles) - few))
    stage.apply([CacheOp(CacheOpKind.DROP, SeqId(0), SeqId(0), Pos(0), -1)])
    one = found[0]
    table = tuple(max(1.0, each / one) for each in accumulate((*found, min(tiles)), max))
    return ReadingCosts(table, max(0.0, by_row / one), max(0.0, in_tile / one))


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
