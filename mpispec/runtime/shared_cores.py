"""What actors of one host take from each other, measured before the first request (ADR 0028).

Each computes alone, then all stages of a host at once, then these and the draft. Plans and numbers of cores do not say
it: a quota, a hypervisor, two threads of one core and a memory bus that is full are seen in the times alone.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import msgpack
import numpy as np

from mpispec.compute.base import StageModel
from mpispec.core.ids import Actor
from mpispec.runtime.cores import usable_cores
from mpispec.runtime.group import Group, gather
from mpispec.runtime.trial import paces
from mpispec.transport.environment import host_identity

_RUNS = 6.0
"""Runs of the slowest that a measurement lasts: many of the slices, some milliseconds long, that divide a core."""
_LEAST_S, _MOST_S = 0.05, 1.0
_NOTICEABLE = 0.1
"""An actor slowed down by less shares nothing: clocks and neighbours do as much. On one core it is 1.0 and more."""


class Sharing(NamedTuple):
    """What actors that share cores do to each other."""

    unit_s: float
    """Seconds of a run of one row on the slowest stage, alone."""
    step_s: float
    """Seconds of a step of the draft, alone; 0 without one."""
    crowd: float
    """By how much longer a run occupies the busiest core than the slowest stage alone."""
    toll_s: float
    """Seconds that a step of the draft takes from the stages on its core."""


Times = Mapping[Actor, float]
"""Seconds of a run of one row, by actor."""


class Demand(NamedTuple):
    """Threads that want the same cores."""

    cores: int
    stage_threads: int
    draft_threads: int

    @property
    def crowd(self) -> float:
        """By how much longer stages take at once, at least."""
        return max(1.0, self.stage_threads / self.cores)

    @property
    def draft_share(self) -> float:
        """How much of the draft's time is taken from stages, at least."""
        is_short = self.draft_threads and self.stage_threads and self.stage_threads + self.draft_threads > self.cores
        return min(1.0, self.draft_threads / self.cores) if is_short else 0.0


def sharing(
    alone: Times, stages_at_once: Times, all_at_once: Times, draft: Actor | None, demands: Sequence[Demand] = ()
) -> Sharing:
    """Return what three measurements say: of everyone alone, of all stages, and of them and the draft, at once.

    And what is sure by count, if that is more: a neighbour who comes or goes meanwhile hides what actors do to each
    other, and one that was not noticed costs half of the speed.
    """
    stages = [actor for actor in alone if actor != draft]
    unit_s = max(alone[stage] for stage in stages)
    crowded_s = max(stages_at_once[stage] for stage in stages)
    crowd = crowded_s / unit_s if crowded_s > (1.0 + _NOTICEABLE) * unit_s else 1.0
    crowd = max([crowd, *(demand.crowd for demand in demands)])
    if draft is None:
        return Sharing(unit_s, 0.0, crowd, 0.0)
    # Of the time that a step takes while the stages compute, the part in which it keeps one of them from computing.
    lost = max(1.0 - stages_at_once[stage] / all_at_once[stage] for stage in stages)
    toll_s = min(alone[draft], lost * all_at_once[draft]) if lost > _NOTICEABLE else 0.0
    toll_s = max([toll_s, *(demand.draft_share * alone[draft] for demand in demands)])
    return Sharing(unit_s, alone[draft], crowd, toll_s)


def shared_cores(
    group: Group,
    stages: Mapping[Actor, StageModel],
    draft: tuple[Actor, StageModel | None] | None,
    width: int,
    threads: int,
) -> Sharing | None:
    """Measure a pipeline and its draft; None where no two of them are on one host. Collective.

    `stages` are those of this rank by actor; `draft` is the draft's actor, and its model where this rank has it. The
    stage with the lowest address of all is the one that takes tokens, `width` is how many numbers the others take,
    `threads` how many each actor of this rank computes with.
    """
    mine = dict(stages)
    draft_actor = None if draft is None else draft[0]
    if draft is not None and draft[1] is not None:
        mine[draft[0]] = draft[1]
    ranks = _ranks(group, mine, threads)
    hosts = [sorted(actor for rank in host for actor in rank.actors) for host in ranks]
    if max(map(len, hosts)) == 1:
        return None
    first = min(actor for actors in hosts for actor in actors)
    inputs = {actor: None if actor in (first, draft_actor) else np.zeros((1, width), np.float32) for actor in mine}
    alone: dict[Actor, float] = {}
    for turn in range(max(map(len, hosts))):
        now = {actors[turn] for actors in hosts if len(actors) > turn}
        alone.update(paces(group, mine, inputs, now, _LEAST_S))
    lasting = min(_MOST_S, max(_LEAST_S, _RUNS * max(alone.values())))
    everyone = set(alone)
    without = everyone - {draft_actor}
    at_once = alone
    if any(len(without.intersection(actors)) > 1 for actors in hosts):
        at_once = paces(group, mine, inputs, without, lasting)
    everything = at_once if without == everyone else paces(group, mine, inputs, everyone, lasting)
    alike = [who for host in ranks for who in (host, *([rank] for rank in host))]
    return sharing(alone, at_once, everything, draft_actor, [_demand(who, draft_actor) for who in alike])


class _Rank(NamedTuple):
    cores: list[int]
    usable: int
    """How many of them are worth a thread, for a CPU quota and processors that are one physical core."""
    threads: int
    actors: list[Actor]


def _ranks(group: Group, mine: Collection[Actor], threads: int) -> list[list[_Rank]]:
    """Return what the ranks of each host compute, where, and with what. Collective."""
    found: dict[str, list[_Rank]] = {}
    cores = sorted(os.sched_getaffinity(0))
    own = _Rank(cores, usable_cores(cores).count, threads, sorted(mine))
    for theirs in gather(group, msgpack.packb([host_identity(), *own])):
        host, *rank = msgpack.unpackb(theirs)
        found.setdefault(host, []).append(_Rank(*rank))
    return list(found.values())


def _demand(ranks: Sequence[_Rank], draft: Actor | None) -> Demand:
    """Return how many threads of some ranks want how many cores."""
    cores = {core for rank in ranks for core in rank.cores}
    usable = min(rank.usable / len(rank.cores) for rank in ranks)
    drafting = sum(rank.threads for rank in ranks if draft in rank.actors)
    return Demand(
        max(1, int(len(cores) * usable)), sum(rank.threads * len(rank.actors) for rank in ranks) - drafting, drafting
    )
