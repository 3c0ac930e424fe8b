"""A core that several actors share: whoever computes gets an equal part of it (processor sharing).

An operating system cuts the time of a core into slices of a few milliseconds among the threads that want it, whatever
they compute; beside runs of tens of milliseconds that is an even division. What waits for a message takes nothing.
"""

from __future__ import annotations

from mpispec.core.ids import Actor


class SharedCore:
    """Who computes there, and how many seconds of the whole core each still needs."""

    def __init__(self) -> None:
        self.changes = 0
        """How often somebody has begun or ended: what was foreseen before the last time is void."""
        self._left: dict[Actor, float] = {}
        self._since = 0.0

    def begin(self, actor: Actor, seconds: float, now: float) -> None:
        """Note that an actor begins something that takes so long on a core of its own."""
        self._pass(now)
        self._left[actor] = seconds

    def end(self, actor: Actor, now: float) -> None:
        """Note that an actor has ended, or given up, what it began."""
        self._pass(now)
        del self._left[actor]

    def next(self) -> tuple[Actor, float] | None:
        """Return who ends first, and when, if nothing changes until then; None where nobody computes."""
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
