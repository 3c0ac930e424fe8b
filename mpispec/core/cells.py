"""How many cells of a stage are in use, and who holds them (law 7).

Every stage of a pipeline applies the same operations before the rows of the same runs, so one account is that of all.
It counts a cell from the dispatch of the row that writes it until the operation that frees it has been planned. A stage
applies that operation before the rows of the next run, so it never has more cells in use than were counted when the
run that it computes was dispatched; rows that were cancelled write none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mpispec.core.ids import SeqId, Token


class Holder(Protocol):
    """An active request as far as its cells go."""

    filled: int
    """How many tokens of its text are cached or dispatched."""
    answered_to: int
    """Positions below this have cells on every stage."""

    @property
    def seq(self) -> SeqId:
        """Sequence id of its text."""

    @property
    def num_speculative(self) -> int:
        """Living draft tokens that are dispatched."""


@dataclass(slots=True, eq=False)
class Slot:
    """Room for one request while it is active."""

    seq: SeqId
    """Sequence id that its text begins with."""
    tokens: tuple[Token, ...] = ()
    """What was given to compute: the prompt, and what was accepted before if it begins for a second time."""
    num_prompt: int = 0
    start: int = 0
    """Cells of positions below this are counted with the cached texts; those from here on are the request's own."""
    holder: Holder | None = None

    @property
    def label(self) -> SeqId:
        """Sequence id of its text now."""
        return self.seq if self.holder is None else self.holder.seq

    @property
    def num_own(self) -> int:
        """Cells that are counted for the request itself."""
        return 0 if self.holder is None else self.holder.filled - self.start + self.holder.num_speculative

    @property
    def num_due(self) -> int:
        """Given tokens that will need cells and have none yet."""
        return max(0, len(self.tokens) - (self.start if self.holder is None else self.holder.filled))


def num_common(ours: Sequence[Token], theirs: Sequence[Token]) -> int:
    """Return how many tokens two texts have in common from the first on.

    Slices are compared, each twice as long as the one before: texts are long, and most part soon.
    """
    low, high = 0, min(len(ours), len(theirs))
    size = 8
    while low + size <= high and ours[low : low + size] == theirs[low : low + size]:
        low += size
        size *= 2
    high = min(high, low + size)
    while low < high:
        middle = (low + high + 1) // 2
        if ours[low:middle] == theirs[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


class Texts(Protocol):
    """What keeps the cells of texts between requests, and gives active ones a beginning."""

    @property
    def num_cells(self) -> int:
        """Cells of cached texts; an active request's own are not counted."""

    @property
    def num_idle(self) -> int:
        """Those that no active request uses, so that others can have them."""

    @property
    def num_idle_ids(self) -> int:
        """Sequence ids that others can have."""

    @property
    def held(self) -> set[SeqId]:
        """Sequence ids that belong to no active request."""

    def adopt(self, tokens: tuple[Token, ...], num_prompt: int, most_in_use: int | None) -> tuple[Slot, int] | None:
        """Begin a request that is given `tokens`, the first `num_prompt` of them being its prompt; 0 keeps no cells.

        Returns its slot and how many positions have cells already; at least the last one is left to compute, for the
        token after it is still to be decided. None where the cells in use would then be more than `most_in_use`, those
        of the rest of `tokens` included, or where no sequence id is free.
        """

    def catch_up(self, slot: Slot) -> int:
        """Share what others have computed of a request's given tokens since it began; return how many have cells now.

        It must not have computed any itself.
        """

    def is_coming(self, slot: Slot, at_least: int) -> bool:
        """Tell whether an older request computes `at_least` given tokens of one that has not computed any itself."""

    def roll_back(self, slot: Slot, pos: int) -> None:
        """Note that a request's text is another from `pos` on, and that it has no cells there."""

    def keep(self, slot: Slot, tokens: tuple[Token, ...]) -> None:
        """End a request; `tokens` have cells for others, all with its label."""

    def evict(self, num_cells: int) -> None:
        """Free as many idle cells, or all there are: those used longest ago, from the end of their texts on."""

    def take_id(self) -> SeqId | None:
        """Take a sequence id, that of an idle text if no other is free."""

    def check(self) -> None:
        """Assert the invariants; tests call it after every event."""
