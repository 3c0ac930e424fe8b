"""Timelines of virtual clusters, in the form in which real ranks write theirs."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping

from mpispec.core.effects import Compute, ComputeDraft, Effect, Emit, Send
from mpispec.core.events import Computed, Drafted
from mpispec.core.ids import HEAD, Actor
from mpispec.sim.cluster import VirtualCluster
from mpispec.sim.study import Study, answers_of
from mpispec.trace import Event, Trace


def record(name: str, study: Study) -> list[tuple[str, float, list[Event]]]:
    """Let a strategy answer all requests of a study; return each rank's name, clock offset and events, for `write`.

    Ranks hold what they hold by default (`Plan`): the first the head and stage 1, the second the draft. Prompts have
    no way of their own here (`Study.is_exact`).
    """
    recorder = _Recorder(study)
    answers_of(name, study, recorder.watch)
    return recorder.ranks()


class _Recorder:
    """What happens on each rank of a virtual cluster, at virtual times."""

    def __init__(self, study: Study) -> None:
        self._roles = _roles(study)
        self._traces: defaultdict[int, Trace] = defaultdict(lambda: Trace(is_on=True))
        self._ranks = _ranks(self._roles)

    def watch(self, cluster: VirtualCluster) -> None:
        """Record what happens there from now on."""

        def perform(actor: Actor, effect: Effect) -> None:
            trace = self._traces[self._ranks[actor]]
            match effect:
                case Send():
                    trace.sent(self._roles[actor], cluster.now, effect.message, cluster.num_bytes(actor, effect))
                case Emit():
                    trace.emitted(cluster.now, effect)

        def computed(actor: Actor, began: float, work: Compute | ComputeDraft, completion: Computed | Drafted) -> None:
            self._traces[self._ranks[actor]].computed(self._roles[actor], began, cluster.now, work, completion)

        cluster.watch, cluster.watch_computed = perform, computed

    def ranks(self) -> list[tuple[str, float, list[Event]]]:
        """Return each rank's name, clock offset and events."""
        roles: defaultdict[int, list[str]] = defaultdict(list)
        for actor, role in self._roles.items():
            roles[self._ranks[actor]].append(role)
        return [
            (f"rank {rank}: {', '.join(roles[rank])}", 0.0, self._traces[rank].events)
            for rank in sorted(roles)
            if self._traces[rank].events
        ]


def _roles(study: Study) -> dict[Actor, str]:
    """Return the name of what each actor of a study's cluster plays, as `Plan.role_of` would."""
    roles = ["head", *(f"stage {number}" for number in range(1, study.num_stages + 1))]
    between = study.cascade[1:]
    for number, model in zip(range(len(between), 0, -1), reversed(between), strict=True):
        roles += [f"level {number} head", *(f"level {number} stage {stage + 1}" for stage in range(model.num_stages))]
    roles.append("draft")
    return {Actor(actor): role for actor, role in enumerate(roles, start=HEAD)}


def _ranks(roles: Mapping[Actor, str]) -> dict[Actor, int]:
    """Return where each actor runs: a head with the stage after it; the draft on the second rank, as in `Plan`."""
    ranks: dict[Actor, int] = {}
    free = itertools.count()
    for actor in sorted(roles, key=lambda actor: (actor > 1 and roles[actor] != "draft", actor)):
        is_after_head = roles.get(Actor(actor - 1), "").endswith("head")
        ranks[actor] = ranks[Actor(actor - 1)] if is_after_head else next(free)
    return ranks
