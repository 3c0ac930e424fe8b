"""Stages in virtual time that compute prompts on a way of their own, and others in their midst (ADR 0048)."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from mpispec.core.allowance import Allowance
from mpispec.core.ids import HEAD, Actor, Plane
from mpispec.sim.costs import Modelled, SharedCore

_SOON = 1e-12
"""Seconds that are nothing: sums of times are not exact."""


@dataclass(frozen=True)
class Apart(Modelled):
    """A cluster whose stages have a second address each, for prompts (core/lanes.py)."""

    readers: Actor = HEAD
    """The address that the second ones follow."""
    looks: int = 1
    """How often the run of a prompt looks whether others wait."""

    def link(self, src: Actor, dst: Actor, plane: Plane, num_bytes: int) -> float:
        """See `Costs`."""
        return super().link(self._stage(src), self._stage(dst), plane, num_bytes)

    def compute(self, stage: Actor, num_rows: int) -> float:
        """See `Costs`."""
        return super().compute(self._stage(stage), num_rows)

    def core(self, actor: Actor) -> int | None:
        """See `Costs`: stages have a core each, on which both of their addresses compute."""
        stage = self._stage(actor)
        return stage if 1 <= stage <= len(self.stage_s) else None

    def shared_core(self) -> SharedCore:
        """See `Costs`."""
        return GivingCore(self.readers, self.looks)

    def _stage(self, actor: Actor) -> Actor:
        return Actor(actor - self.readers) if actor > self.readers else actor


class GivingCore(SharedCore):
    """The core of a stage: one run at a time; a prompt's run stands still at its looks while others compute."""

    def __init__(self, readers: Actor, looks: int) -> None:
        """See `Apart`."""
        super().__init__()
        self._readers, self._looks = readers, looks
        self._allowance = Allowance()
        self._piece = self._to_look = 0.0
        """Seconds from one look of the run of a prompt to the next, and to the next one from now on."""
        self._running: Actor | None = None

    def begin(self, actor: Actor, seconds: float, now: float) -> None:
        """See `SharedCore`."""
        super().begin(actor, seconds, now)
        if actor > self._readers:
            self._piece = seconds / self._looks

    def end(self, actor: Actor, now: float) -> None:
        """See `SharedCore`."""
        super().end(actor, now)
        if self._running == actor:
            self._running = None

    def next(self) -> tuple[Actor, float] | None:
        """See `SharedCore`."""
        ahead = copy.deepcopy(self)
        while (running := ahead._choose()) is not None:
            if ahead._left[running] <= _SOON:
                return running, ahead._since
            ahead._go_on(ahead._stretch())
        return None

    def _pass(self, now: float) -> None:
        while now > self._since + _SOON and (running := self._choose()) is not None and self._left[running] > _SOON:
            self._go_on(min(self._stretch(), now - self._since))
        self._since = now
        self.changes += 1

    def _stretch(self) -> float:
        """Return for how long what computes now goes on before anything can change."""
        assert self._running is not None
        left = self._left[self._running]
        return min(left, self._to_look) if self._running > self._readers else left

    def _go_on(self, seconds: float) -> None:
        assert self._running is not None
        self._left[self._running] -= seconds
        self._since += seconds
        if self._running > self._readers:
            self._to_look -= seconds
            self._allowance.read(seconds)
        elif any(actor > self._readers for actor in self._left):
            self._allowance.took(seconds)

    def _choose(self) -> Actor | None:
        """Return who computes from now on: nobody is interrupted but the run of a prompt, at a look."""
        running = self._running
        if running is not None and (running <= self._readers or self._to_look > _SOON or self._left[running] <= _SOON):
            return running
        readers = [actor for actor in self._left if actor > self._readers]
        others = [actor for actor in self._left if actor <= self._readers]
        may = not readers or self._allowance.is_there
        self._running = next(iter([*others, *readers] if may else [*readers, *others]), None)
        self._to_look = self._piece
        return self._running
