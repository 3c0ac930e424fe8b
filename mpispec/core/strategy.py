"""A strategy chooses what to dispatch next; that is where the papers' systems differ (docs/design.md)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

from mpispec.core.config import HeadConfig
from mpispec.core.experience import Experience
from mpispec.core.ids import Token
from mpispec.core.tree import Node, TokenTree


class View(Protocol):
    """What a strategy may look at when it chooses."""

    tree: TokenTree
    config: HeadConfig
    """What the head knows of its stages, links and draft."""

    @property
    def experience(self) -> Experience:
        """What earlier requests have shown of the drafters."""

    def cost(self, num_rows: int) -> float:
        """Return for how long a run of `num_rows` rows occupies the busiest core or link, in times of one row."""

    def passing(self, num_rows: int) -> float:
        """Return the time from the dispatch of a run into an empty pipeline to its result, in times of one row."""

    @property
    def is_first_idle(self) -> bool:
        """Whether the first stage has nothing to compute, as far as the head knows."""

    @property
    def load(self) -> int:
        """Requests that are active at the head, this one among them."""

    @property
    def live_runs(self) -> int:
        """Runs of this request in flight that are not cancelled."""

    @property
    def is_drafted(self) -> bool:
        """Whether a draft works for this request."""

    @property
    def is_awaiting_draft(self) -> bool:
        """Whether a drafter on another rank is about to extend the tree within the strategy's lead."""


class Strategy(ABC):
    """One instance a request. It never touches the tree, so it cannot make the text wrong, only slow."""

    lead: int
    """How many positions beyond the root drafters may run ahead; it may change later."""
    width: int = 1
    """Most draft tokens of a drafter for one position."""
    least_path_prob: float = 0.01
    """A drafter of the head drafts no path that is less likely."""
    floor: float = 0.0
    """A draft does not expand a draft token that is less likely than this share of the likeliest of its layer."""

    is_divisible: bool = False
    """Whether a run may take the first of the nodes that were chosen and leave the others for a later one."""

    waits: bool = False
    """Whether it has one run in flight at most, so that runs of several requests meet only if one waits for others."""
    run_rows: int | None = None
    """How many rows a run shared with other requests should have; None: what brings all rows through soonest."""
    run_requests: int | None = None
    """For how many requests such a run waits, where each waits for its verification; None: as many as fill it."""

    @property
    def draft_lead(self) -> int:
        """How many positions beyond the root a draft may run ahead; at 0 it computes nothing."""
        return self.lead

    def begin(self, view: View) -> None:  # noqa: B027  most strategies have nothing to prepare
        """Look at the pipeline; `draft_lead` and `width` are sent to the draft afterwards."""

    @abstractmethod
    def choose(self, view: View) -> list[Node]:
        """Return the nodes of the next run, parents before children, or [] to wait.

        Called whenever there is room for a run. An undispatched root is always the right first answer.
        """

    def value(self, node: Node) -> float:
        """Return the chance that a chosen node's token is right; runs of several requests take the likeliest first."""
        return node.path_prob

    def verified(self, root: Node, token: Token) -> None:  # noqa: B027  most strategies do not learn
        """Note what was decided after `root`, before the tree advances."""

    def accepted(self, count: int) -> None:  # noqa: B027  most strategies do not adapt
        """Note that `count` tokens have become final."""


class Bounds(NamedTuple):
    """How far a drafter of the head may draft."""

    farthest: int
    """The last position."""
    width: int = 1
    """Most draft tokens for one position; 1: a chain."""
    least_path_prob: float = 0.0
    """Of the least likely draft token, as a share of the root's."""


class Drafter(Protocol):
    """Lives in the head and grows the tree at once, alone or with a draft or exits."""

    def begin(self, tokens: Sequence[int]) -> None:
        """Start a request; `tokens` is the head's own list of accepted tokens, which will grow."""

    def prepare(self) -> None:
        """Do a piece of what is left to do with the prompt, in a millisecond at most; called with each of its runs."""

    def accepted(self, root: Node) -> None:
        """Note that the list of accepted tokens has grown by one; `root` is its node."""

    def also_drafted(self, node: Node) -> None:
        """Note that another drafter has drafted `node`."""

    def grow(self, tree: TokenTree, bounds: Bounds, stops: Collection[Token]) -> None:
        """Draft what follows the tree's nodes, nothing after one of `stops`."""
