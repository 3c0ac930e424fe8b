"""The KV cache operations that the next run carries to its stages (law 3).

The stages of a pipeline have equal caches, because each applies the same operations in the same order: those of a run
before its rows. So there is one queue, which the next run takes whole.

| method     | called when                              | sends, and of which sequence                                 |
|------------|------------------------------------------|--------------------------------------------------------------|
| `adopt`    | a request begins                         | SHARE of a cached prefix, or DROP of all behind it           |
| `catch_up` | its first run is about to be dispatched  | SHARE of what others have computed of it meanwhile           |
| `place`    | nodes are about to be dispatched         | SHARE of the parent's with a fresh one, for a further child  |
| `free`     | nodes have died                          | DROP of those taken among them, and of the survivor's from   |
|            |                                          | the first dead position on; now, or at the next `collect`    |
| `truncate` | positions will be written again          | DROP of the text's from there on                             |
| `collect`  | only the accepted text is alive          | DROP of the dead cells that were kept, GATHER of the text's  |
| `keep`     | a request has ended                      | DROP of the text's behind what all stages surely have        |
| `make_room`| rows are about to be dispatched          | DROP of cached texts, those used longest ago first           |

Stages apply them in the order of the calls. A sequence id that `free` gives back may go to a node of the same run, so
nodes are freed before others are placed; a request that ends is freed, then kept, then collected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mpispec.core.cells import Slot, Texts
from mpispec.core.ids import Pos, SeqId, Token
from mpispec.core.messages import CacheOp, CacheOpKind
from mpispec.core.prefix_cache import PrefixCache
from mpispec.core.sequences import TO_END, Placed, SequencePool, place
from mpispec.core.sessions import Sessions
from mpispec.core.traits import FreeAtOnce, FreePolicy, Prefill
from mpispec.core.tree import Node

_WATERMARK = 32
"""A request is admitted where this part of all cells stays free for those that run already, as vLLM keeps some: one
that is admitted into the last cells is soon preempted."""


class CacheOperations:
    """Plans the cache operations of one pipeline, and keeps account of its cells and sequence ids."""

    def __init__(
        self,
        sequences: int,
        max_active: int,
        prefill: Prefill | None = None,
        freeing: Callable[[SequencePool], FreePolicy] = FreeAtOnce,
        shares: bool = False,
        most_cells: int | None = None,
        first: int = 0,
    ) -> None:
        """Plan for caches with `sequences` ids and `max_active` requests at once, as the backend's traits ask for.

        Where requests share cells, no more than `most_cells` are used. Else each has room for a text of its own. The
        ids are numbered from `first` on.
        """
        if sequences < max_active:
            raise ValueError(f"{max_active} requests at once need more than {sequences} sequence ids")
        self._pool = SequencePool(sequences, first)
        self._pending: list[CacheOp] = []
        self._most_cells = most_cells if shares else None
        prefill = prefill or Prefill()
        self._texts: Texts
        if shares:
            self._texts, self._num_reserved = PrefixCache(self._pool, prefill, self._pending), max_active
        else:
            self._texts, self._num_reserved = Sessions(self._pool, max_active, prefill, self._pending), 0
        self._freeing = freeing(self._pool)
        self._active: dict[Slot, None] = {}

    @property
    def num_free(self) -> int:
        """Sequence ids that nodes can still get; some are left for requests that are to begin."""
        reserved = max(0, self._num_reserved - len(self._active))
        return max(0, self._pool.num_free + self._texts.num_idle_ids - reserved)

    @property
    def num_cells(self) -> int:
        """Cells in use, once all planned operations have been applied and all dispatched rows computed."""
        return self._texts.num_cells + sum(slot.num_own for slot in self._active) + self._freeing.num_cells

    def must_collect(self, seq: SeqId) -> bool:
        """Tell whether no more of the request whose text is `seq` may be dispatched before `collect`."""
        del seq  # the cells are those of all requests
        return self._freeing.must_collect

    def should_collect(self, seq: SeqId) -> bool:
        """Tell whether `collect` is worth its cost, once only the accepted text is alive."""
        del seq
        return self._freeing.should_collect

    def take(self, seq: SeqId | None = None) -> tuple[CacheOp, ...]:
        """Return what the next run carries; it is sent once. With `seq` only those on the cache of this id."""
        del seq  # the cells are those of all requests
        taken = tuple(self._pending)
        self._pending.clear()
        return taken

    def adopt(
        self, tokens: tuple[Token, ...], num_prompt: int | None = None, at_once: bool = False
    ) -> tuple[Slot, int] | None:
        """Begin a request; return its slot and how many positions of the tokens given have cells already.

        The first `num_prompt` tokens are its prompt, by default all. None where cells are short, unless it is to begin
        `at_once` in any case: it has to wait.
        """
        most = None
        if self._most_cells is not None and self._active and not at_once:
            busy = sum(slot.num_own + slot.num_due for slot in self._active)
            most = self._most_cells - self._most_cells // _WATERMARK - busy - self._freeing.num_cells
        adopted = self._texts.adopt(tokens, len(tokens) if num_prompt is None else num_prompt, most)
        if adopted is not None:
            self._active[adopted[0]] = None
        return adopted

    def suits(self, tokens: tuple[Token, ...], num_prompt: int) -> tuple[int, bool]:
        """See `Sessions.suits`; for caches whose requests share no cells."""
        assert isinstance(self._texts, Sessions)
        return self._texts.suits(tokens, num_prompt)

    def catch_up(self, slot: Slot) -> int:
        """Share what others have computed of a request's text before its first run; return how many have cells now."""
        return self._texts.catch_up(slot)

    def is_coming(self, slot: Slot, at_least: int) -> bool:
        """Tell whether an older request is computing `at_least` tokens of a request that has had no run.

        `catch_up` will share them, so it pays to wait.
        """
        return self._texts.is_coming(slot, at_least)

    def room(self, num_rows: int) -> int:
        """Return how many of the next run's rows can have cells, those of cached texts that nobody uses included.

        Where these are too few only the end of a request helps, or the death of its draft tokens.
        """
        if self._most_cells is None:
            return num_rows
        return min(num_rows, self._most_cells - self.num_cells + self._texts.num_idle)

    def make_room(self, num_rows: int) -> int:
        """Return the same, after dropping as many cached texts as it takes."""
        room = self.room(num_rows)
        if self._most_cells is not None:
            self._texts.evict(self.num_cells + room - self._most_cells)
        return room

    def place(self, nodes: Sequence[Node]) -> Placed:
        """Assign sequence ids to the nodes of the next run, parents first; stop where no id is free."""
        placed = place(nodes, self._take_id)
        self._pending += placed.cache_ops
        return placed

    def free(self, dead: Sequence[Node], root: Node, survivor: Node | None = None) -> None:
        """Free the cells of nodes that died in the tree of `root`, below `survivor` if that is not the root."""
        self._pending += self._freeing.free(dead, root, survivor or root)

    def truncate(self, seq: SeqId, pos: int) -> None:
        """Drop a sequence from a position on."""
        self._pending.append(CacheOp(CacheOpKind.DROP, seq, seq, Pos(pos), TO_END))

    def collect(self, seq: SeqId) -> None:
        """Free all dead cells that were kept, the text `seq` being all that is alive."""
        self._pending += self._freeing.collect(seq)

    def roll_back(self, slot: Slot, pos: int) -> None:
        """Drop a request's text from a position on."""
        self._texts.roll_back(slot, pos)
        self.truncate(slot.label, pos)

    def empty(self, slot: Slot, tokens: tuple[Token, ...]) -> None:
        """Drop all cells of a request that has no draft tokens; it begins anew with `tokens`, its text."""
        self.roll_back(slot, 0)
        slot.tokens, slot.num_prompt = tokens, len(tokens)

    def keep(self, slot: Slot, tokens: tuple[Token, ...]) -> None:
        """End a request, with the cells of `tokens` for a successor."""
        self._texts.keep(slot, tokens)
        del self._active[slot]

    def check(self, held: set[SeqId | None]) -> None:
        """Assert that no sequence id has leaked; `held` are those of active requests' trees."""
        held = held | self._texts.held | {self._freeing.seq}
        held.discard(None)
        assert len(held) + self._pool.num_free == self._pool.size, "a sequence id leaked"
        assert self._most_cells is None or self.num_cells <= self._most_cells, "more cells than there are"
        self._texts.check()

    def _take_id(self) -> SeqId | None:
        return self._texts.take_id() if self.num_free else None
