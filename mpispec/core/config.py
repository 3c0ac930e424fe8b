"""Bounds and sizes of a head."""

from __future__ import annotations

from dataclasses import dataclass

from mpispec.core.ids import HEAD, Actor


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """Bounds and sizes of a head; all of them law 7."""

    num_stages: int
    draft: Actor | None
    """Address of the draft, if there is one."""
    context: int
    """Positions of one request, prompt and answer together."""
    sequences: int
    """Sequence ids that the stages' caches have."""
    rows_cost: tuple[float, ...] = (1.0,)
    """Time of a run of 1, 2, 3, ... rows on the slowest stage as multiples of one row's; linear beyond the table."""
    max_active: int = 1
    """Requests that run at once; further ones wait."""
    chunk: int = 32
    """Rows of a prefill run."""
    first_queue: int = 2
    """Launched runs that the first stage may not have begun: the credits."""
    deadline_s: float = 600.0
    """Longest time from the last sign of life of the pipeline to the answer of its oldest run."""
    actor: Actor = HEAD
    """Address of the head; its stages follow it."""

    @property
    def stages(self) -> tuple[Actor, ...]:
        """Addresses of the stages in layer order."""
        return tuple(Actor(self.actor + index) for index in range(1, self.num_stages + 1))

    def cost(self, num_rows: int) -> float:
        """Return the time of a run of `num_rows` rows as a multiple of one row's."""
        table = self.rows_cost
        if num_rows <= len(table):
            return table[num_rows - 1]
        slope = (table[-1] - table[0]) / (len(table) - 1) if len(table) > 1 else 0.0
        return table[-1] + slope * (num_rows - len(table))

    @property
    def window(self) -> int:
        """Live runs in flight: one computing and one waiting for each stage."""
        return 2 * self.num_stages

    @property
    def most_in_flight(self) -> int:
        """Runs in flight with the cancelled ones, which cost no compute but do take places in queues."""
        return 4 * self.num_stages + 8
