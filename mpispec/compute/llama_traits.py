"""What llama.cpp's arithmetic asks of the core: its `BackendTraits`, and the two policies behind them.

Its bits depend on two things that a run or the cache may change: it attends in tiles where a run has 64 rows or more
(`Tiling`, ADR 0021), and sums attention in the order of cells (`DeferredFree`, ADR 0020). Loads no library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from mpispec.core.ids import Pos, SeqId
from mpispec.core.messages import CacheOp, CacheOpKind
from mpispec.core.sequences import TO_END, SequencePool, drop_dead, first_positions
from mpispec.core.traits import BackendTraits, FreeAtOnce, Prefill, PrefillRun
from mpispec.core.tree import Node, NodeState

TILE = 64
MOST_CELLS = 448
"""Dead cells for which the stages' caches have room; collecting costs a copy of the text's cells, so not too few."""
SPARE_CELLS = 320 + MOST_CELLS
"""Cells of a stage beyond the context, for rows that are being speculated on and for dead ones; on any backend, since a
stage elsewhere may be llama.cpp's."""
_COLLECT_FROM = 2
"""Where collecting costs least, it begins at the most dead cells divided by this."""


def traits(keeps_order: bool = True, is_quantised: bool = False, is_row_exact: bool = True) -> BackendTraits:
    """Return the traits for a job.

    `keeps_order` unless several requests share the cells of a stage, where they leave holes for each other.
    `is_row_exact` is what was measured: it differs with the format of the weights, the processor and the build.
    """
    return BackendTraits(
        is_row_exact=is_row_exact,
        may_gather=is_row_exact,
        may_branch=not is_quantised or (keeps_order and is_row_exact),
        prefill=Tiling(may_cut=not keeps_order),
        freeing=partial(DeferredFree, most_cells=MOST_CELLS) if keeps_order else FreeAtOnce,
        shares_cells=not keeps_order,
    )


@dataclass(frozen=True, kw_only=True)
class Tiling(Prefill):
    """Which prompts are computed in tiles, in which runs, and what a later prompt may keep of them.

    llama.cpp attends in tiles where a run has `tile` rows or more, which over a long context halves the time of a row
    and moves its last bits; one row more costs the attention of another whole tile. So that bits depend on the prompt
    alone (law 6), all positions of a long prompt are computed in runs of a tile, and none of another prompt.
    """

    tile: int = TILE
    long: int = 512
    """Tokens of the shortest prompt that is computed in tiles; at least `tile`."""
    may_cut: bool = False
    """Whether such a prompt may also be read in other runs, with rows of others: where requests share cells its bits
    depend on these anyway (ADR 0053)."""

    @property
    def most_rows(self) -> int:
        """See `Prefill`."""
        return self.tile - 1

    def is_long(self, num_tokens: int) -> bool:
        """Tell whether a prompt of this many tokens is computed in tiles."""
        return num_tokens >= self.long

    def num_final(self, num_missing: int) -> int:
        """Return how many rows of the next run are final where at least `tile` positions of a long prompt are missing.

        They leave whole tiles. If they are not the whole run, the next one begins over the last rows of this one.
        """
        return (num_missing - 1) % self.tile + 1

    def next_run(self, num_prompt: int, start: int, num_rows: int) -> PrefillRun:
        """See `Prefill`."""
        is_tile = start < num_prompt and self.is_long(num_prompt)
        if is_tile and not (self.may_cut and (start or num_rows < self.tile)):
            return PrefillRun(self.tile, self.num_final(num_prompt - start))
        return super().next_run(num_prompt, start, num_rows)

    def usual(self, num_prompt: int, start: int, num_rows: int) -> int:
        """See `Prefill`."""
        return self.tile if start < num_prompt and self.is_long(num_prompt) else num_rows

    def is_fixed(self, num_prompt: int, start: int) -> bool:
        """See `Prefill`."""
        is_tile = start < num_prompt and self.is_long(num_prompt) and not self.may_cut
        return is_tile or super().is_fixed(num_prompt, start)

    def reusable(self, num_tokens: int, num_common: int, num_read: int, num_prompt: int) -> int:
        """See `Prefill`. What a long prompt lacks is whole tiles, or all of it."""
        is_tiled = self.is_long(num_prompt)
        if not self.is_long(num_tokens):
            return 0 if is_tiled else super().reusable(num_tokens, num_common, num_read, num_prompt)
        missing = num_tokens - (min(num_common, num_read) if is_tiled else 0)
        return max(0, num_tokens - -(-missing // self.tile) * self.tile)


class DeferredFree:
    """Cells of dead nodes stay in use until none is left that is newer, so that no younger token gets an older place.

    llama.cpp gives a row the first free cell and sums attention in the order of cells, so a token in a hole that a
    pruned sibling has left is summed before its own ancestors, and the last bits of its logits differ (measured, docs:
    Exactness). Where nothing alive was dispatched after the dead, as in every chain, their cells are the last ones and
    are freed at once. Others move to a sequence of their own until the accepted text is all that is alive; then that
    is dropped and the text's cells are gathered in the order of positions. For cells of one request at a time.
    """

    def __init__(self, pool: SequencePool, most_cells: int) -> None:
        """Keep at most about `most_cells` dead cells; none where there is no id for them."""
        self._pool = pool
        self._most_cells = most_cells
        self.seq = pool.take()
        """Sequence of the dead."""
        self.num_cells = 0

    @property
    def must_collect(self) -> bool:
        """See `FreePolicy`."""
        return self.seq is not None and self.num_cells >= self._most_cells

    @property
    def should_collect(self) -> bool:
        """See `FreePolicy`."""
        return self.seq is not None and self.num_cells * _COLLECT_FROM >= self._most_cells

    def free(self, dead: Sequence[Node], root: Node, survivor: Node) -> list[CacheOp]:
        """See `FreePolicy`."""
        cache_ops = drop_dead(dead, survivor, self._pool)
        orders = [node.order for node in dead if node.seq is not None]
        if self.seq is None or not orders or _are_newest(min(orders), root):
            return cache_ops
        self.num_cells += len(orders)
        kept = [CacheOp(CacheOpKind.SHARE, seq, self.seq, pos, TO_END) for seq, pos in first_positions(dead)]
        return kept + cache_ops

    def collect(self, seq: SeqId) -> list[CacheOp]:
        """See `FreePolicy`."""
        if self.seq is None or not self.num_cells:
            return []
        self.num_cells = 0
        freed = CacheOp(CacheOpKind.DROP, self.seq, self.seq, Pos(0), TO_END)
        return [freed, CacheOp(CacheOpKind.GATHER, seq, seq, Pos(0), TO_END)]


def _are_newest(order: int, root: Node) -> bool:
    """Tell whether nothing alive was dispatched after the `order`-th dispatch."""
    return all(node.order < order for node in root.subtree() if node.state is NodeState.DISPATCHED)
