"""The KV cache operations that the next run carries to its stages (law 3).

The stages of a pipeline have equal caches, because each applies the same operations in the same order: those of a run
before its rows. So there is one queue, which the next run takes whole.

| method     | called when                              | sends, and of which sequence                                 |
|------------|------------------------------------------|--------------------------------------------------------------|
| `adopt`    | a request begins                         | DROP of its slot's, behind the common prefix                 |
| `place`    | nodes are about to be dispatched         | SHARE of the parent's with a fresh one, for a further child  |
| `free`     | nodes have died                          | DROP of those taken among them, and of the survivor's from   |
|            |                                          | the first dead position on; now, or at the next `collect`    |
| `truncate` | positions will be written again          | DROP of the text's from there on                             |
| `collect`  | only the accepted text is alive          | DROP of the dead cells that were kept, GATHER of the text's  |
| `keep`     | a request has ended                      | DROP of the text's behind what all stages surely have        |

Stages apply them in the order of the calls. A sequence id that `free` gives back may go to a node of the same run, so
nodes are freed before others are placed; a request that ends is freed, then kept, then collected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mpispec.core.ids import Pos, SeqId, Token
from mpispec.core.messages import CacheOp, CacheOpKind
from mpispec.core.sequences import TO_END, Placed, SequencePool, place
from mpispec.core.sessions import Sessions, Slot
from mpispec.core.traits import FreeAtOnce, FreePolicy, Prefill
from mpispec.core.tree import Node


class CacheOperations:
    """Plans the cache operations of one pipeline, and keeps account of its sequence ids."""

    def __init__(
        self,
        sequences: int,
        max_active: int,
        prefill: Prefill | None = None,
        freeing: Callable[[SequencePool], FreePolicy] = FreeAtOnce,
        first: int = 0,
    ) -> None:
        """Plan for caches with `sequences` ids and `max_active` requests at once, as the backend's traits ask for.

        The ids are numbered from `first` on.
        """
        self._pool = SequencePool(sequences, first)
        self._sessions = Sessions(self._pool, max_active, prefill)
        self._freeing = freeing(self._pool)
        self._pending: list[CacheOp] = []

    @property
    def num_free(self) -> int:
        """Sequence ids that nodes can still get."""
        return self._pool.num_free

    def must_collect(self, seq: SeqId) -> bool:
        """Tell whether no more of the request whose text is `seq` may be dispatched before `collect`."""
        del seq  # the cells are those of all requests
        return self._freeing.must_collect

    def should_collect(self, seq: SeqId) -> bool:
        """Tell whether `collect` is worth its cost, once only the accepted text is alive."""
        del seq
        return self._freeing.should_collect

    def take(self) -> tuple[CacheOp, ...]:
        """Return what the next run carries; it is sent once."""
        taken = tuple(self._pending)
        self._pending = []
        return taken

    def suits(self, prompt: tuple[Token, ...]) -> tuple[int, bool]:
        """See `Sessions.suits`."""
        return self._sessions.suits(prompt)

    def adopt(self, prompt: tuple[Token, ...]) -> tuple[Slot, int]:
        """Give a request a slot; return it and how many positions of the prompt have cells already."""
        slot, cached, cache_ops = self._sessions.adopt(prompt)
        self._pending += cache_ops
        return slot, cached

    def place(self, nodes: Sequence[Node]) -> Placed:
        """Assign sequence ids to the nodes of the next run, parents first; stop where no id is free."""
        placed = place(nodes, self._pool)
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

    def keep(self, slot: Slot, seq: SeqId, tokens: tuple[Token, ...]) -> None:
        """Take a slot back from a request that has ended, with the cells of `tokens` for a successor."""
        self._pending += self._sessions.keep(slot, seq, tokens)

    def check(self, held: set[SeqId | None]) -> None:
        """Assert that no sequence id has leaked; `held` are those of active requests' trees."""
        held = held | self._sessions.held | {self._freeing.seq}
        held.discard(None)
        assert len(held) + self._pool.num_free == self._pool.size, "a sequence id leaked"
