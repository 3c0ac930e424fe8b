"""Cached prefixes of ended requests: the next turn of a chat computes only what is new."""

from __future__ import annotations

from dataclasses import dataclass, field

from mpispec.core.ids import Pos, SeqId, Token
from mpispec.core.messages import CacheOp, CacheOpKind
from mpispec.core.sequences import TO_END, SequencePool
from mpispec.core.traits import Prefill


@dataclass(slots=True)
class Slot:
    """Room for one request: its sequence id and, between requests, the tokens that have cells."""

    index: int
    seq: SeqId
    tokens: tuple[Token, ...] = ()
    num_read: int = 0
    """How many positions, from the first on, were computed as a prompt."""
    num_prompt: int = 0
    """Length of that prompt."""
    is_active: bool = False
    last_use: int = field(default=0)


class Sessions:
    """One slot for each request that may be active; a new request adopts the one of which it can keep most."""

    def __init__(self, pool: SequencePool, num_slots: int, prefill: Prefill | None = None) -> None:
        """Without a `prefill` the bits of a cell do not matter, and any common prefix is kept."""
        self._prefill = prefill or Prefill()
        self._slots = []
        for index in range(num_slots):
            seq = pool.take()
            if seq is None:
                raise ValueError(f"{num_slots} requests at once need more than {pool.size} sequence ids")
            self._slots.append(Slot(index, seq))
        self._uses = 0

    @property
    def held(self) -> set[SeqId]:
        """Sequence ids of slots that wait for a request."""
        return {slot.seq for slot in self._slots if not slot.is_active}

    def adopt(self, prompt: tuple[Token, ...]) -> tuple[Slot, int, list[CacheOp]]:
        """Give a request a slot; return it, how many positions are cached, and the cache operations that drop the rest.

        At least the last prompt token is left to compute: the token decided after it is the first of the answer.
        """
        slot = self._best(prompt)
        kept = self._reusable(slot, prompt)
        cache_ops = (
            [CacheOp(CacheOpKind.DROP, slot.seq, slot.seq, Pos(kept), TO_END)] if kept < len(slot.tokens) else []
        )
        slot.is_active = True
        slot.tokens = ()
        slot.num_read = slot.num_prompt = len(prompt)
        return slot, kept, cache_ops

    def suits(self, prompt: tuple[Token, ...]) -> tuple[int, bool]:
        """Return how many positions of a prompt would be cached if it were adopted now, and if nothing would be lost.

        The greater, the better. A slot must be idle.
        """
        slot = self._best(prompt)
        return self._reusable(slot, prompt), not slot.tokens

    def keep(self, slot: Slot, seq: SeqId, tokens: tuple[Token, ...]) -> list[CacheOp]:
        """Take a slot back; return the cache operations that drop all but the cells of `tokens`."""
        self._uses += 1
        slot.seq, slot.tokens, slot.is_active, slot.last_use = seq, tokens, False, self._uses
        slot.num_read = min(slot.num_read, len(tokens))
        return [CacheOp(CacheOpKind.DROP, seq, seq, Pos(len(tokens)), TO_END)]

    def _best(self, prompt: tuple[Token, ...]) -> Slot:
        idle = [slot for slot in self._slots if not slot.is_active]
        return max(idle, key=lambda slot: (self._reusable(slot, prompt), not slot.tokens, -slot.last_use))

    def _reusable(self, slot: Slot, prompt: tuple[Token, ...]) -> int:
        common = min(_common(slot.tokens, prompt), len(prompt) - 1)
        return self._prefill.reusable(len(prompt), common, slot.num_read, slot.num_prompt)


def _common(ours: tuple[Token, ...], theirs: tuple[Token, ...]) -> int:
    for index, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if one != other:
            return index
    return min(len(ours), len(theirs))
