"""The models below the target in a study: costs, chances, and the virtual levels made of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from mpispec.core.config import HeadConfig
from mpispec.core.draft import DraftCore
from mpispec.core.head import HeadCore
from mpispec.core.ids import Actor, Token
from mpispec.core.level import LevelCore
from mpispec.core.stage import StageCore
from mpispec.sim.cluster import Level
from mpispec.sim.costs import Laddered, Modelled
from mpispec.sim.ladder import Ladder, LowestLevel, ScriptedLevel, drawn
from mpispec.strategies.pipespec import PipeSpec

_STRATEGY = "pipespec"
_MOST_ROWS = 64
"""Rows of a run that a cost is given for; more than any strategy launches."""


@dataclass(frozen=True)
class Rung:
    """One model of a ladder."""

    rows_s: tuple[float, ...]
    """Seconds of a pass of 1, 2, ... rows; the last holds for more."""
    hit: float
    """Chance that it says what the model above it says."""
    num_stages: int = 1
    """Equal parts that its pipeline has; the lowest model has one."""

    @property
    def rows_cost(self) -> tuple[float, ...]:
        """Time of 1, 2, ... rows as multiples of one row's."""
        table = self.rows_s + self.rows_s[-1:] * (_MOST_ROWS - len(self.rows_s))
        return tuple(seconds / table[0] for seconds in table)


@dataclass(frozen=True)
class Below:
    """What stands below the target in a virtual cluster."""

    levels: list[Level]
    draft: tuple[DraftCore, LowestLevel]
    costs: Laddered


def build(
    rungs: Sequence[Rung], ladder: Ladder, target: HeadConfig, costs: Modelled, lookahead: int | None = None
) -> Below:
    """Return the cores and models of `rungs`, given from the lowest up, under a target."""
    above, actor = target.actor, target.num_stages + 1
    levels: list[Level] = []
    stage_s: dict[Actor, tuple[float, ...]] = {}
    for depth, rung in enumerate(reversed(rungs[1:]), 1):
        config = replace(
            target,
            num_stages=rung.num_stages,
            actor=Actor(actor),
            draft=Actor(actor + rung.num_stages + 1),
            rows_cost=rung.rows_cost,
        )
        head = HeadCore(config, {_STRATEGY: lambda: strategy(lookahead)}, {})
        levels.append(
            Level(
                LevelCore(head, above, _STRATEGY),
                [StageCore(stage, rung.num_stages, 8 * config.most_in_flight, config.actor) for stage in config.stages],
                ScriptedLevel(ladder, depth, rung.num_stages),
            )
        )
        stage_s.update({stage: tuple(s / rung.num_stages for s in rung.rows_s) for stage in config.stages})
        above, actor = config.actor, actor + rung.num_stages + 1
    draft = DraftCore(target.chunk, target.max_active, target.sequences, above)
    lowest = LowestLevel(ScriptedLevel(ladder, len(rungs)), rungs[0].hit)
    return Below(levels, (draft, lowest), Laddered(costs, stage_s, rungs[0].rows_s))


def models(rungs: Sequence[Rung], texts: Iterable[Sequence[Token]], vocabulary: int, seed: int) -> Ladder:
    """Return what the models of `rungs` write under a target that writes `texts`."""
    agreements = [drawn(rung.hit, seed << 8 | depth) for depth, rung in enumerate(reversed(rungs))]
    return Ladder(texts, agreements, vocabulary)


def strategy(lookahead: int | None) -> PipeSpec:
    """Return the rule of every level."""
    return PipeSpec(lookahead) if lookahead else PipeSpec()
