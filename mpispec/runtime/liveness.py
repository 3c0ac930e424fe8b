"""Whether the ranks that compute the target are still there, asked for while they have nothing to say (law 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mpispec.core.effects import Send
from mpispec.core.ids import Actor, Plane
from mpispec.core.messages import AskWork
from mpispec.runtime.plan import Plan
from mpispec.transport.base import TransportError

ASK_S = 10.0
"""After so long without a word a rank is asked for one. It answers while it computes."""
MOST_UNANSWERED = 4
"""Questions, so a rank is lost after 40 to 50 s. A pause of rank 0's own host is one question long."""


class Liveness:
    """Watches other ranks on behalf of one; its owner calls `look` about once a second."""

    def __init__(self, watched: Mapping[int, Actor], hosts: Sequence[str]) -> None:
        """`watched` has an address on each rank to watch, `hosts` the names of all."""
        self._watched = dict(watched)
        self._hosts = tuple(hosts)
        self._next_question = dict.fromkeys(watched, 0.0)
        """When each rank is asked if nothing comes before."""
        self._has_spoken: set[int] = set(watched)
        """Those that have been heard since the last look."""
        self._num_unanswered = dict.fromkeys(watched, 0)

    def hear(self, rank: int) -> None:
        """Note that a message of a rank has come."""
        self._has_spoken.add(rank)

    def look(self, now: float) -> list[Send]:
        """Return the questions that are due. Raises TransportError where a rank leaves too many unanswered."""
        for rank in self._has_spoken & self._watched.keys():
            self._next_question[rank] = now + ASK_S
            self._num_unanswered[rank] = 0
        self._has_spoken.clear()
        due = [rank for rank in self._watched if now >= self._next_question[rank]]
        for rank in due:
            if self._num_unanswered[rank] >= MOST_UNANSWERED:
                raise TransportError(
                    f"nothing comes from rank {rank} on {self._hosts[rank]}, though it was asked {MOST_UNANSWERED} "
                    f"times in {ASK_S * MOST_UNANSWERED:.0f} s: its host hangs or its network is down"
                )
            self._num_unanswered[rank] += 1
            self._next_question[rank] = now + ASK_S
        return [Send(self._watched[rank], Plane.CONTROL, AskWork()) for rank in due]


def watch_stages(plan: Plan, rank: int, hosts: Sequence[str]) -> Liveness:
    """Return what watches the stages of the target from the rank of their head; a draft costs speed alone."""
    stages = {stage.rank: plan.pipelines[0].actor_of(index) for index, stage in enumerate(plan.stages)}
    stages.pop(rank, None)
    return Liveness(stages, hosts)
