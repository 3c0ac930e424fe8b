"""Requests that wait for their turn: new ones, and those that had to give up their cells and go on later."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass, field

from mpispec.core.events import Submitted
from mpispec.core.ids import RequestId, Token
from mpispec.core.statistics import Statistics

PLACES = 64
"""A request of the next priority stands as many places further back: it waits for so many later ones, not for ever."""


def rank_of(submitted: Submitted) -> tuple[int, int]:
    """Return a request's rank: the least is the first to be admitted, to be read, and to keep its cells."""
    return submitted.request + PLACES * submitted.priority, submitted.request


@dataclass(slots=True, eq=False)
class Waiting:
    """What is known of one; its text goes on where it was."""

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
    def scores_prompt(self) -> bool:
        """Whether its prompt is to be scored: not once more when the answer has begun."""
        return self.submitted.sampling.scores_prompt and len(self.tokens) == len(self.submitted.prompt)

    @property
    def num_shared(self) -> int:
        """Of how many tokens, as a prompt, cells may be those of others; what is scored has to be computed."""
        return 0 if self.scores_prompt else len(self.prompt)

    @property
    def known_statistics(self) -> Statistics | None:
        """Its counters; None if it has never begun."""
        return self.statistics if self.statistics.began is not None else None


class Queue:
    """Requests that wait, in the order of their ranks."""

    def __init__(self) -> None:
        self._waiting: list[Waiting] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Waiting]:
        return iter(self._waiting)

    @property
    def first(self) -> Waiting:
        """The one whose turn it is; there must be one."""
        return self._waiting[0]

    def add(self, waiting: Waiting) -> None:
        """Put one in its place."""
        bisect.insort(self._waiting, waiting, key=lambda each: rank_of(each.submitted))

    def find(self, request: RequestId) -> Waiting | None:
        """Return a request if it waits."""
        return next((waiting for waiting in self._waiting if waiting.request == request), None)

    def remove(self, waiting: Waiting) -> None:
        """Take one out, wherever it stands."""
        self._waiting.remove(waiting)
