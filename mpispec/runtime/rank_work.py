"""What each rank has done, asked for while the job goes on; by messages that drivers, not cores, exchange."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from mpispec.core.effects import Send
from mpispec.core.ids import Actor, Plane
from mpispec.core.messages import AskWork
from mpispec.runtime.worker import Worker

_PATIENCE_S = 1.0
"""A rank that has not answered by then is left out (law 7)."""


class RankWork(NamedTuple):
    """What a rank has done since the start."""

    busy_s: float
    """Seconds that its busiest worker has spent in jobs it has ended."""
    sent: tuple[int, ...]
    """Bytes of frames that it has sent to each rank."""


class WorkOfRanks:
    """The work of the ranks of a job, as one of them gets to know it."""

    def __init__(self, ranks: Mapping[Actor, int], rank: int, workers: Sequence[Worker]) -> None:
        """`ranks` says where each actor runs, `rank` which of them this is, with its `workers`."""
        self._rank = rank
        self._workers = tuple(workers)
        self._others = {place: actor for actor, place in ranks.items() if place != rank}
        """An address on every other rank."""
        self._sent = [0] * (max(ranks.values()) + 1)
        self._one_at_a_time = threading.Lock()
        self._changed = threading.Condition()
        self._is_wanted = False
        self._known: dict[int, RankWork] = {}

    @property
    def own(self) -> RankWork:
        """What this rank has done."""
        return RankWork(max((worker.busy_s for worker in self._workers), default=0.0), tuple(self._sent))

    def count_sent(self, rank: int, num_bytes: int) -> None:
        """Count a frame that is being sent to another rank."""
        self._sent[rank] += num_bytes

    def ask(self, wake: Callable[[], None]) -> dict[int, RankWork]:
        """Return what each rank has done; `wake` has the driver see what is wanted. Not from the driver's threads."""
        with self._one_at_a_time, self._changed:
            self._known = {}
            self._is_wanted = True
            wake()
            self._changed.wait_for(lambda: len(self._known) == len(self._others), _PATIENCE_S)
            return {**self._known, self._rank: self.own}

    def questions(self) -> list[Send]:
        """Return what the driver is to send, mostly nothing."""
        if not self._is_wanted:
            return []
        self._is_wanted = False
        return [Send(actor, Plane.CONTROL, AskWork()) for actor in self._others.values()]

    def heard(self, rank: int, work: RankWork) -> None:
        """Take the answer of a rank."""
        with self._changed:
            self._known[rank] = work
            self._changed.notify_all()
