"""One text for each request that may be active: the next turn of a chat computes only what is new.

Where bits depend on the order of cells, texts cannot share any; else `PrefixCache` keeps more of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from mpispec.core.cells import Slot, num_common
from mpispec.core.ids import Pos, SeqId, Token
from mpispec.core.messages import CacheOp, CacheOpKind
from mpispec.core.sequences import TO_END, SequencePool
from mpispec.core.traits import Prefill


@dataclass(slots=True, eq=False)
class _Session(Slot):
    """A slot that keeps, between requests, the tokens that have cells."""

    num_read: int = 0
    """How many positions, from the first on, were computed as a prompt; `num_prompt` is the length of that prompt."""
    num_kept: int = 0
    """With how many cells its request began."""
    is_active: bool = False
    last_use: int = 0


class Sessions:
    """One slot for each request that may be active; a new request adopts the one of which it can keep most."""

    num_idle = num_idle_ids = 0
    """None: each text has cells and an id of its own."""

    def __init__(self, pool: SequencePool, num_slots: int, prefill: Prefill, plan: list[CacheOp]) -> None:
        """Add operations to `plan`, in order. Without a `chunk` in `prefill` any common prefix is kept."""
        self._pool = pool
        self._prefill = prefill
        self._plan = plan
        self._slots: list[_Session] = []
        for _ in range(num_slots):
            seq = pool.take()
            assert seq is not None
            self._slots.append(_Session(seq))
        self._uses = 0

    @property
    def held(self) -> set[SeqId]:
        """Sequence ids of slots that wait for a request."""
        return {slot.seq for slot in self._slots if not slot.is_active}

    @property
    def num_cells(self) -> int:
        """Cells of texts that wait for a request."""
        return sum(len(slot.tokens) for slot in self._slots if not slot.is_active)

    def suits(self, tokens: tuple[Token, ...], num_prompt: int) -> tuple[int, bool]:
        """Return how many positions would be cached if `adopt` were called now, and if nothing would be lost.

        The greater, the better. A slot must be idle.
        """
        slot = self._best(tokens, num_prompt)
        return self._kept(slot, tokens, num_prompt), not slot.tokens

    def adopt(self, tokens: tuple[Token, ...], num_prompt: int, most_in_use: int | None) -> tuple[Slot, int]:
        """See `Texts`. There is always room."""
        del most_in_use
        slot = self._best(tokens, num_prompt)
        kept = self._kept(slot, tokens, num_prompt)
        if kept < len(slot.tokens):
            self._plan.append(CacheOp(CacheOpKind.DROP, slot.seq, slot.seq, Pos(kept), TO_END))
        slot.is_active, slot.num_kept = True, kept
        slot.tokens = ()
        slot.num_read = slot.num_prompt = num_prompt
        return slot, kept

    def catch_up(self, slot: Slot) -> int:
        """See `Texts`. Nothing is shared."""
        assert isinstance(slot, _Session)
        return slot.num_kept

    def is_coming(self, slot: Slot, at_least: int) -> bool:
        """See `Texts`."""
        del slot, at_least
        return False

    def roll_back(self, slot: Slot, pos: int) -> None:
        """See `Texts`. The text of an active request is not remembered."""

    def keep(self, slot: Slot, tokens: tuple[Token, ...]) -> None:
        """See `Texts`."""
        assert isinstance(slot, _Session)
        self._uses += 1
        slot.seq, slot.tokens, slot.is_active, slot.last_use = slot.label, tokens, False, self._uses
        slot.num_read = min(slot.num_read, len(tokens))
        slot.holder = None
        self._plan.append(CacheOp(CacheOpKind.DROP, slot.seq, slot.seq, Pos(len(tokens)), TO_END))

    def evict(self, num_cells: int) -> None:
        """See `Texts`."""

    def take_id(self) -> SeqId | None:
        """See `Texts`."""
        return self._pool.take()

    def check(self) -> None:
        """See `Texts`."""

    def _best(self, tokens: tuple[Token, ...], num_prompt: int) -> _Session:
        idle = [slot for slot in self._slots if not slot.is_active]
        return max(idle, key=lambda slot: (self._kept(slot, tokens, num_prompt), not slot.tokens, -slot.last_use))

    def _kept(self, slot: _Session, tokens: tuple[Token, ...], num_prompt: int) -> int:
        common = min(num_common(slot.tokens, tokens), len(tokens) - 1)
        return self._prefill.kept(num_prompt, common, slot.num_read, slot.num_prompt)
