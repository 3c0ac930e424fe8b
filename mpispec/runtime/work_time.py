"""How long each rank has computed, asked for while the job goes on; by messages that drivers, not cores, exchange."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from mpispec.core.effects import Send
from mpispec.core.ids import Actor, Plane
from mpispec.core.messages import AskWork
from mpispec.runtime.worker import Worker

_PATIENCE_S = 1.0
"""A rank that has not answered by then is left out (law 7)."""


class WorkTime:
    """The computing time of the ranks of a job, as one of them gets to know it."""

    def __init__(self, ranks: Mapping[Actor, int], rank: int, workers: Sequence[Worker]) -> None:
        """`ranks` says where each actor runs, `rank` which of them this is, with its `workers`."""
        self._rank = rank
        self._workers = tuple(workers)
        self._others = {place: actor for actor, place in ranks.items() if place != rank}
        """An address on every other rank."""
        self._one_at_a_time = threading.Lock()
        self._changed = threading.Condition()
        self._is_wanted = False
        self._known: dict[int, float] = {}

    @property
    def own_s(self) -> float:
        """Seconds that the busiest worker of this rank has spent in jobs it has ended."""
        return max((worker.busy_s for worker in self._workers), default=0.0)

    def ask(self, wake: Callable[[], None]) -> dict[int, float]:
        """Return those seconds by rank; `wake` has the driver see what is wanted. From any thread but the driver's."""
        with self._one_at_a_time, self._changed:
            self._known = {}
            self._is_wanted = True
            wake()
            self._changed.wait_for(lambda: len(self._known) == len(self._others), _PATIENCE_S)
            return {**self._known, self._rank: self.own_s}

    def questions(self) -> list[Send]:
        """Return what the driver is to send, mostly nothing."""
        if not self._is_wanted:
            return []
        self._is_wanted = False
        return [Send(actor, Plane.CONTROL, AskWork()) for actor in self._others.values()]

    def heard(self, rank: int, seconds: float) -> None:
        """Take the answer of a rank."""
        with self._changed:
            self._known[rank] = seconds
            self._changed.notify_all()
