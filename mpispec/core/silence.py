"""How long a head hears nothing from its stages while they have work (law 7)."""

from __future__ import annotations

from mpispec.core.config import HeadConfig
from mpispec.core.events import Event, ProtocolError, Received
from mpispec.core.lanes import Lanes


class Silence:
    """Ends the job when it has lasted too long."""

    def __init__(self, config: HeadConfig, runs: Lanes) -> None:
        self._config = config
        self._runs = runs
        self._stages = frozenset(config.stages)
        self._since = 0.0
        """When a stage last sent a message, or no run was in flight."""

    def hear(self, event: Event, now: float) -> None:
        """Note an event; a message of a drafter, or of a level above, is no sign of life of the stages."""
        if not self._runs or (isinstance(event, Received) and event.src in self._stages):
            self._since = now

    def check(self, now: float) -> None:
        """Look at the clock. Raises ProtocolError."""
        if self._runs and now - self._since > self._config.deadline_s:
            raise ProtocolError(
                f"no stage of {self._config.name} has been heard of for {now - self._since:.0f} s "
                f"while run {self._runs.oldest} is under way: a host hangs or its network is down"
            )
