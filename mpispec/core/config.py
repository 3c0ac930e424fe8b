"""Bounds and sizes of a head."""

from __future__ import annotations

from dataclasses import dataclass, field

from mpispec.core.ids import HEAD, Actor, RunId
from mpispec.core.traits import BackendTraits, Prefill

MOST_NEW = 9
"""Requests that begin with one run: each comes with an `Open`, and a `Close` may follow before the run is taken."""

FIRST_READING = RunId(1 << 40)
"""Runs of prompts that have a way of their own are numbered from here on (core/lanes.py)."""


def most_in_flight(num_stages: int) -> int:
    """Return how many runs may be in flight with the cancelled ones, which cost no compute but do take places."""
    return 4 * num_stages + 8


def queue_limit(num_stages: int, max_active: int) -> int:
    """Return how many messages may wait in front of a stage: of all runs in flight, and a `Close` of each request."""
    return most_in_flight(num_stages) * (1 + 2 * MOST_NEW) + max_active


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """Bounds and sizes of a head; all of them law 7."""

    num_stages: int
    draft: Actor | None
    """Address of the draft, if there is one."""
    context: int
    """Positions of one request, prompt and answer together."""
    sequences: int
    """Sequence ids that the stages' caches have; where requests have cells of their own, each of them."""
    rows_cost: tuple[float, ...] = (1.0,)
    """Time of a run of 1, 2, 3, ... rows on the slowest stage as multiples of one row's; linear beyond the table."""
    past_cost: tuple[float, float] = (0.0, 0.0)
    """What a cached position adds to each row of a run, and to each of one that goes in a tile, in the same unit."""
    link_delay: float = 0.0
    """Time from the sending of an empty message to its arrival on the next rank, as a multiple of a run of one row."""
    link_row: float = 0.0
    """Time for which the activations of one row occupy a link between stages, in the same unit."""
    draft_step: float = 1.0
    """Time of a step of the draft with one row, as a multiple of a run of one row."""
    draft_pair: float = 1.0
    """Time of a step of the draft with two rows, as a multiple of one row's."""
    crowd: float = 1.0
    """By how much longer a stage takes while all others compute too: stages that share the busiest core."""
    draft_toll: float = 0.0
    """What a step of the draft takes from the stages that share its core, in times of a run of one row; 0 where it has
    one to itself."""
    traits: BackendTraits = field(default_factory=BackendTraits)
    """What the stages' backend declares of its arithmetic."""
    cells: int | None = None
    """Cells that the stages' caches have for requests that share them; None: as many as these may need."""
    max_active: int = 1
    """Requests that run at once; further ones wait."""
    chunk: int = 32
    """Most rows of a prefill run, where the backend does not say it."""
    first_queue: int = 2
    """Dispatched runs that the first stage may not have begun: the credits."""
    deadline_s: float = 600.0
    """Longest time from the last sign of life of the stages to the answer of their oldest run."""
    draft_context: int | None = None
    """Positions that the model below can compute; it drafts nothing beyond them. None: all of the context."""
    name: str = "the target"
    """The model of the stages, as messages to the user name it."""
    actor: Actor = HEAD
    """Address of the head; its stages follow it."""
    readers: Actor | None = None
    """Address that the same stages follow once more, for prompts (core/lanes.py); None: all runs go one way."""

    @property
    def stages(self) -> tuple[Actor, ...]:
        """Addresses of the stages in layer order, then those for prompts."""
        befores = (self.actor,) if self.readers is None else (self.actor, self.readers)
        return tuple(Actor(before + index) for before in befores for index in range(1, self.num_stages + 1))

    def cost(self, num_rows: int, correction: float = 1.0, past: float = 0.0) -> float:
        """Return for how long a run of `num_rows` rows occupies the busiest core or link, in times of one row.

        `correction` is by what factor its compute differs from the table, `past` what its rows attend to. The work of
        stages on one core adds up.
        """
        attending = num_rows * past * self.past_cost[num_rows > self.traits.prefill.most_rows]
        compute = self.crowd * (self.compute(num_rows) * correction + attending)
        return max(self.crowd, compute, num_rows * self.link_row)

    def passing(self, num_rows: int, correction: float = 1.0) -> float:
        """Return the time from the dispatch of a run into an empty pipeline to its result, in times of one row.

        The head is on the first stage's rank (ADR 0002), so that as many links as stages are passed, the last of them
        without activations.
        """
        hops = self.num_stages - 1
        compute = max(1.0, self.compute(num_rows) * correction)
        if not hops:
            return compute
        links = hops * (self.link_delay + num_rows * self.link_row) + self.link_delay
        return self.num_stages * compute + links

    def chunk_for(self, num_tokens: int) -> int:
        """Return the rows of the prefill runs that bring `num_tokens` tokens through the pipeline soonest.

        k runs of c rows take (k + D - 1) t(c): few rows fill the pipeline soon, many are cheaper each. Always the same
        where that would change bits, for measured costs differ from one start to the next (law 6).
        """
        if not self.traits.is_row_exact:
            return self.chunk
        sizes = (self.chunk, max(1, self.chunk // 2), max(1, self.chunk // 4))
        return min(sizes, key=lambda size: (-(-num_tokens // size) + self.num_stages - 1) * self.cost(size))

    @property
    def prefill(self) -> Prefill:
        """How prompts are computed, where that decides what may be kept of them."""
        return self.traits.prefill if self.traits.is_row_exact else self.traits.prefill.in_runs_of(self.chunk)

    def compute(self, num_rows: int) -> float:
        """Return for how long a run of `num_rows` rows occupies the slowest stage, as measured at the start."""
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
        """See `most_in_flight`."""
        return most_in_flight(self.num_stages)
