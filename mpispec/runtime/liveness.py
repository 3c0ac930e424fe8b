"""Whether the ranks that one depends on can still be reached, asked for while they have nothing to say (law 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NoReturn

from mpispec.core.effects import Send
from mpispec.core.ids import HEAD, Actor, Plane
from mpispec.core.messages import AskWork, Lost
from mpispec.runtime.plan import Plan
from mpispec.transport.base import TransportError

ASK_S = 10.0
"""After so long without a word a rank is asked for one. It answers while it computes."""
MOST_UNANSWERED = 4
"""Questions, so a rank is lost after 40 to 50 s. A pause of rank 0's own host is one question long."""


_THOUGH = (
    f"though it was asked {MOST_UNANSWERED} times in {ASK_S * MOST_UNANSWERED:.0f} s: its host hangs, or the network "
    "between the two is down"
)


class Liveness:
    """Watches other ranks on behalf of one; its owner calls `look` about once a second."""

    def __init__(self, watched: Mapping[int, Actor], hosts: Sequence[str], rank: int = 0) -> None:
        """`watched` has an address on each rank to watch, `hosts` the names of all; `rank` is its owner."""
        self._watched = dict(watched)
        self._hosts = tuple(hosts)
        self._rank = rank
        self._next_question = dict.fromkeys(watched, 0.0)
        """When each rank is asked if nothing comes before."""
        self._has_spoken: set[int] = set(watched)
        """Those that have been heard since the last look."""
        self._num_unanswered = dict.fromkeys(watched, 0)

    def rest(self) -> None:
        """Watch no longer: the job ends, and who is done answers no more."""
        self._watched.clear()

    def hear(self, rank: int) -> None:
        """Note that a message of a rank has come."""
        self._has_spoken.add(rank)

    def look(self, now: float) -> list[Send]:
        """Return the questions that are due, and to the head who has left too many unanswered.

        Raises TransportError where that is the head's rank, or the owner is, or the head has done nothing about it.
        """
        for rank in self._has_spoken & self._watched.keys():
            self._next_question[rank] = now + ASK_S
            self._num_unanswered[rank] = 0
        self._has_spoken.clear()
        sends = []
        for rank in [rank for rank in self._watched if now >= self._next_question[rank]]:
            is_told = self._rank != 0 != rank and self._num_unanswered[rank] == MOST_UNANSWERED
            if self._num_unanswered[rank] >= MOST_UNANSWERED and not is_told:
                raise TransportError(f"nothing comes from {self._place(rank)}, {_THOUGH}")
            self._num_unanswered[rank] += 1
            self._next_question[rank] = now + ASK_S
            sends.append(Send(HEAD, Plane.CONTROL, Lost(rank)) if is_told else _question(self._watched[rank]))
        return sends

    def lost(self, by: int, rank: int) -> NoReturn:
        """Take the word of a rank that nothing comes from another. Raises TransportError."""
        places = range(len(self._hosts))
        if by not in places or rank not in places:
            raise TransportError(f"rank {by} has lost a rank {rank}, which there is not")
        raise TransportError(f"nothing comes from {self._place(rank)} to {self._place(by)}, {_THOUGH}")

    def _place(self, rank: int) -> str:
        return f"rank {rank} on {self._hosts[rank]}"


def _question(actor: Actor) -> Send:
    return Send(actor, Plane.CONTROL, AskWork())


def watch(plan: Plan, rank: int, hosts: Sequence[str]) -> Liveness:
    """Return what watches for a rank.

    The rank of the head watches all stages of the target, every other one the head and the stages before and after its
    own. So a cut anywhere in the target is seen from both its ends, and a rank that is cut off ends by itself. Nobody
    watches a draft, which costs speed alone.
    """
    target = plan.pipelines[0]
    places = [(stage.rank, target.actor_of(index)) for index, stage in enumerate(plan.stages)]
    if rank == target.rank:
        watched = dict(places)
    else:
        pairs = [*pairwise(places), *pairwise(reversed(places))]
        watched = {target.rank: HEAD} | {place: actor for (own, _), (place, actor) in pairs if own == rank}
    watched.pop(rank, None)
    return Liveness(watched, hosts, rank)
