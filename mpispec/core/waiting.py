"""A request that waits for its turn: a new one, or one that had to give up its cells and goes on later."""

from __future__ import annotations

from dataclasses import dataclass, field

from mpispec.core.events import Submitted
from mpispec.core.ids import RequestId, Token
from mpispec.core.statistics import Statistics


@dataclass(slots=True, eq=False)
class Waiting:
    """What is known of it; its text goes on where it was."""

    submitted: Submitted
    tokens: tuple[Token, ...] = ()
    """The prompt, and what has been accepted."""
    statistics: Statistics = field(default_factory=Statistics)
    limit: int | None = None
    """First position that must not be decided yet, where a level above says so."""

    def __post_init__(self) -> None:
        """Begin with the prompt."""
        self.tokens = self.tokens or self.submitted.prompt

    @property
    def request(self) -> RequestId:
        """Its request."""
        return self.submitted.request

    @property
    def prompt(self) -> tuple[Token, ...]:
        """Its prompt; in a level a text may have been taken back to less than what it was primed with."""
        return self.tokens[: len(self.submitted.prompt)]

    @property
    def known_statistics(self) -> Statistics | None:
        """Its counters; None if it has never begun."""
        return self.statistics if self.statistics.began is not None else None
