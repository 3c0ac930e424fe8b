"""Cells of its own for each request that runs at once, so that none leaves holes among another's (ADR 0036).

Where a backend sums in the order of cells, a request's bits depend on the order of its own alone then, and that is kept
as for a request that has all cells to itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mpispec.core.cache_operations import CacheOperations
from mpispec.core.cells import Slot
from mpispec.core.config import HeadConfig
from mpispec.core.ids import SeqId, Token
from mpispec.core.messages import CacheOp
from mpispec.core.sequences import Placed, SequencePool
from mpispec.core.traits import FreeAtOnce, FreePolicy, Prefill
from mpispec.core.tree import Node


class OwnCaches:
    """Plans as `CacheOperations` does, with one of these a request.

    Cache k has the sequence ids k * sequences .. (k + 1) * sequences - 1, which is how stages know whose a row is.
    """

    def __init__(
        self,
        sequences: int,
        max_active: int,
        prefill: Prefill | None = None,
        freeing: Callable[[SequencePool], FreePolicy] = FreeAtOnce,
    ) -> None:
        """Plan for `max_active` caches of `sequences` ids each."""
        firsts = [index * sequences for index in range(max_active)]
        self._caches = [CacheOperations(sequences, 1, prefill, freeing, first=first) for first in firsts]
        self._idle = [*self._caches]
        """Those without a request, the one first that was left first."""
        self._sequences = sequences

    @property
    def num_cells(self) -> int:
        """See `CacheOperations`: those of all caches."""
        return sum(cache.num_cells for cache in self._caches)

    def must_collect(self, seq: SeqId) -> bool:
        """See `CacheOperations`."""
        return self._of(seq).must_collect(seq)

    def should_collect(self, seq: SeqId) -> bool:
        """See `CacheOperations`."""
        return self._of(seq).should_collect(seq)

    def take(self, seq: SeqId | None = None) -> tuple[CacheOp, ...]:
        """See `CacheOperations`. Operations on different caches have no order."""
        caches = self._caches if seq is None else [self._of(seq)]
        return tuple(cache_op for cache in caches for cache_op in cache.take())

    def adopt(self, tokens: tuple[Token, ...], num_prompt: int | None = None) -> tuple[Slot, int]:
        """See `CacheOperations`: the cache that has most of the prompt, then an empty one, then the oldest."""
        read = len(tokens) if num_prompt is None else num_prompt
        cache = max(self._idle, key=lambda cache: cache.suits(tokens, read))
        self._idle.remove(cache)
        adopted = cache.adopt(tokens, read)
        assert adopted is not None, "a cache of its own has room for any request"
        return adopted

    def catch_up(self, slot: Slot) -> int:
        """See `CacheOperations`."""
        return self._of(slot.label).catch_up(slot)

    def is_coming(self, slot: Slot, at_least: int) -> bool:
        """See `CacheOperations`: nothing is shared."""
        del slot, at_least
        return False

    def make_room(self, num_rows: int) -> int:
        """See `CacheOperations`: each request has room for all of its context."""
        return num_rows

    def place(self, nodes: Sequence[Node]) -> Placed:
        """See `CacheOperations`. The nodes are of one request."""
        first = nodes[0] if nodes[0].parent is None else nodes[0].parent
        assert first.seq is not None, "a node is placed after its parent"
        return self._of(first.seq).place(nodes)

    def free(self, dead: Sequence[Node], root: Node, survivor: Node | None = None) -> None:
        """See `CacheOperations`."""
        assert root.seq is not None
        self._of(root.seq).free(dead, root, survivor)

    def truncate(self, seq: SeqId, pos: int) -> None:
        """See `CacheOperations`."""
        self._of(seq).truncate(seq, pos)

    def collect(self, seq: SeqId) -> None:
        """See `CacheOperations`."""
        self._of(seq).collect(seq)

    def roll_back(self, slot: Slot, pos: int) -> None:
        """See `CacheOperations`."""
        self._of(slot.label).roll_back(slot, pos)

    def keep(self, slot: Slot, tokens: tuple[Token, ...]) -> None:
        """See `CacheOperations`."""
        cache = self._of(slot.label)
        cache.keep(slot, tokens)
        self._idle.append(cache)

    def check(self, held: set[SeqId | None]) -> None:
        """See `CacheOperations`."""
        for cache in self._caches:
            cache.check({seq for seq in held if seq is not None and self._of(seq) is cache})

    def _of(self, seq: SeqId) -> CacheOperations:
        return self._caches[seq // self._sequences]


def caches_of(config: HeadConfig) -> CacheOperations | OwnCaches:
    """Return what plans the cache operations of a head's stages. Raises ValueError where cells are too few."""
    traits = config.traits
    if traits.has_own_cells:
        return OwnCaches(config.sequences, config.max_active, config.prefill, traits.freeing)
    if config.cells is not None and config.cells < config.context:
        raise ValueError(f"a context of {config.context} positions needs more than {config.cells} cells")
    return CacheOperations(
        config.sequences, config.max_active, config.prefill, traits.freeing, traits.shares_cells, config.cells
    )
