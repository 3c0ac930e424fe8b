"""How long things take in virtual time, by a model for studies; tests of the protocol have it at random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from mpispec.core.ids import HEAD, Actor, Plane
from mpispec.core.row_times import interpolated

_FIRST = Actor(HEAD + 1)


class Costs(Protocol):
    """Seconds of virtual time."""

    def link(self, src: Actor, dst: Actor, plane: Plane, num_bytes: int) -> float:
        """From send to arrival."""

    def transfer(self, num_bytes: int) -> float:
        """How much of that a message occupies the link, so that the next one on it has to wait."""

    def compute(self, stage: Actor, num_rows: int) -> float:
        """A run on a stage."""

    def draft(self, num_tokens: int) -> float:
        """A step of the draft."""

    def abort(self) -> float | None:
        """From the request to give up a compute until it ends; None if it runs to its end instead."""

    def core(self, actor: Actor) -> int | None:
        """The core that an actor shares with others; None if it has one to itself."""

    def shared_core(self) -> SharedCore:
        """Return what actors compute on that share a core."""


@dataclass(frozen=True)
class Modelled:
    """A cluster of equal links and stages of given cost."""

    stage_s: tuple[float, ...]
    """Seconds of each stage for one row."""
    draft_s: float = 0.0
    """Seconds of a draft step."""
    link_s: float = 0.0
    """Latency of a message between ranks."""
    link_bytes_per_s: float = float("inf")
    rows_factor: tuple[float, ...] = field(default=(1.0,))
    """Cost of 1, 2, 3, ... rows as multiples of one row; beyond the table it grows by the last difference."""
    cores: tuple[int, ...] = ()
    """The core of each stage and, last, of the draft; those with the same number share it. Empty: one for each."""

    def link(self, src: Actor, dst: Actor, plane: Plane, num_bytes: int) -> float:
        """See `Costs`; the head is on the first stage's rank (ADR 0002)."""
        if src + dst == _FIRST + HEAD:
            return 0.0
        return self.link_s + num_bytes / self.link_bytes_per_s

    def transfer(self, num_bytes: int) -> float:
        """See `Costs`."""
        return num_bytes / self.link_bytes_per_s

    def compute(self, stage: Actor, num_rows: int) -> float:
        """See `Costs`."""
        return self.stage_s[stage - 1] * self.factor(num_rows)

    def draft(self, num_tokens: int) -> float:
        """See `Costs`."""
        return self.draft_s * self.factor(num_tokens)

    def abort(self) -> float | None:
        """See `Costs`."""
        return 0.0

    def core(self, actor: Actor) -> int | None:
        """See `Costs`; an actor that is alone on a core does not share it."""
        if not self.cores:
            return None
        core = self.cores[actor - 1]
        return core if self.cores.count(core) > 1 else None

    def shared_core(self) -> SharedCore:
        """See `Costs`."""
        return SharedCore()

    def factor(self, rows: int) -> float:
        """Return the cost of a run of so many rows as a multiple of one row's."""
        table = self.rows_factor
        if rows <= len(table):
            return table[rows - 1]
        slope = table[-1] - table[-2] if len(table) > 1 else 0.0
        return table[-1] + slope * (rows - len(table))


@dataclass(frozen=True)
class Cascaded(Modelled):
    """The target's cluster and the models of a cascade below it, the lowest of which is the draft."""

    levels: Mapping[Actor, tuple[float, ...]] = field(default_factory=dict)
    """By stage of a level, the seconds of a run of 1, 2, ... rows; the last holds for more."""
    lowest: tuple[float, ...] = ()
    """The same for the draft."""

    def compute(self, stage: Actor, num_rows: int) -> float:
        """See `Costs`."""
        table = self.levels.get(stage)
        return table[min(num_rows, len(table)) - 1] if table else super().compute(stage, num_rows)

    def draft(self, num_tokens: int) -> float:
        """See `Costs`."""
        return self.lowest[min(num_tokens, len(self.lowest)) - 1]

    def core(self, actor: Actor) -> int | None:
        """See `Costs`: each has one to itself."""
        return None


ROWS_FACTORS: Mapping[str, tuple[float, ...]] = {
    "flat": (1.0,),
    "cpu": interpolated({1: 1.0, 2: 1.97, 4: 3.4, 8: 6.2, 16: 11.8, 32: 23.0}),
    "cpu4": interpolated({1: 1.0, 2: 1.44, 4: 2.25, 8: 3.9, 32: 12.8}),
    "cpu8": interpolated({1: 1.0, 2: 1.24, 4: 2.1, 8: 4.4, 32: 14.8}),
    "moe": interpolated({1: 1.0, 2: 113 / 62, 4: 139 / 62, 8: 272 / 62, 16: 642 / 62}),
    "gpu4": interpolated({1: 1.0, 2: 414 / 124, 9: 414 / 124, 31: 437 / 124, 32: 437 / 124}),
}
"""Rows for nothing; Q4_1 on one thread of a CPU, by llama.cpp as it comes, by four rows of weights at once (ADR 0025)
and by eight that lie together (ADR 0026); experts on weak GPUs, as a llama.cpp port of PipeDec (arXiv 2504.04104v1)
reports them; a 70B with 4-bit kernels on two GPUs (PipeSpec's HumanEval files, github.com/BradMcDanel/pipespec)."""


def law_speedup(num_stages: int, acceptance_rate: float) -> float:
    """Return the speed-up of a filled pipeline over a plain one (docs/methodology.md, the law)."""
    return num_stages / (1.0 + (1.0 - acceptance_rate) * (num_stages - 1))


def exit_speedup(acceptance_rate: float, share_of_work: float) -> float:
    """Return the law's bound for a drafter that is a part of the pipeline: an early exit (SPEED).

    Its draft token comes after x of a plain token's time (`share_of_work`) and a rejection costs the rest of it, so a
    token takes x + (1 - h)(1 - x) of a plain token's time.
    """
    return 1.0 / (share_of_work + (1.0 - acceptance_rate) * (1.0 - share_of_work))


class SharedCore:
    """A core that several actors share: those that compute get equal parts of it (processor sharing).

    An operating system cuts the time of a core into slices of a few milliseconds among the threads that want it,
    whatever they compute; next to runs of tens of milliseconds that is an even division. What waits for a message takes
    nothing.
    """

    def __init__(self) -> None:
        self.changes = 0
        """How often an actor has begun or ended: what was foreseen before the last time is void."""
        self._left: dict[Actor, float] = {}
        """How many seconds of the whole core each computing actor still needs."""
        self._since = 0.0

    def begin(self, actor: Actor, seconds: float, now: float) -> None:
        """Note that an actor begins something that takes `seconds` on a core of its own."""
        self._pass(now)
        self._left[actor] = seconds

    def end(self, actor: Actor, now: float) -> None:
        """Note that an actor has ended, or given up, what it began."""
        self._pass(now)
        del self._left[actor]

    def next(self) -> tuple[Actor, float] | None:
        """Return which actor ends first, and when, if nothing changes until then; None where none computes."""
        if not self._left:
            return None
        first = min(self._left, key=lambda actor: (self._left[actor], actor))
        return first, self._since + self._left[first] * len(self._left)

    def _pass(self, now: float) -> None:
        if self._left:
            done = (now - self._since) / len(self._left)
            self._left = {actor: max(0.0, left - done) for actor, left in self._left.items()}
        self._since = now
        self.changes += 1
