"""What a system of the papers is, seen from the engine: a choice of what to launch next (design, One engine)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mpispec.core.tree import Node, TokenTree


class View(Protocol):
    """What a strategy may look at when it chooses."""

    tree: TokenTree

    @property
    def live_runs(self) -> int:
        """Runs of this request in flight that are not cancelled."""

    @property
    def is_awaiting_draft(self) -> bool:
        """Whether a proposer on another rank is about to extend the tree within the strategy's lead."""


class Strategy(Protocol):
    """One instance a request. It never touches the tree, so it cannot make the text wrong, only slow."""

    lead: int
    """How many positions beyond the root proposers may run ahead."""
    width: int
    """Most guesses for one position that a draft shall make."""

    def choose(self, view: View) -> list[Node]:
        """Return the nodes of the next run, parents before children, or [] to wait.

        Called whenever there is room for a run. An unlaunched root is always the right first answer.
        """

    def accepted(self, count: int) -> None:
        """Hear that `count` tokens have become final."""


class Proposer(Protocol):
    """A guesser that lives in the head and answers at once."""

    def begin(self, tokens: Sequence[int]) -> None:
        """Start a request; `tokens` is the head's own list of accepted tokens, which will grow."""

    def observe(self) -> None:
        """Hear that the list of accepted tokens has grown."""

    def guess(self, path: Sequence[int]) -> tuple[int, float] | None:
        """Return the likeliest token after the accepted tokens and `path`, with its probability."""
