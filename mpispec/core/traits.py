"""What a backend declares of its arithmetic, where that decides what the core may ask of it (law 6).

The text must not depend on runs, cells or timing. On a backend with these defaults it cannot: a row has the same bits
in any run and over any order of cells. A backend for which that does not hold declares where it does, and brings the
policies that keep to it: `compute/llama_traits.py` is llama.cpp's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

from mpispec.core.ids import SeqId
from mpispec.core.messages import CacheOp
from mpispec.core.sequences import SequencePool, drop_dead
from mpispec.core.tree import Node


class PrefillRun(NamedTuple):
    """The next run of a prompt."""

    num_rows: int
    num_final: int
    """Rows whose cells stay; the others are dropped, and the run after this one begins with them."""


@dataclass(frozen=True, kw_only=True)
class Prefill:
    """How prompts are cut into runs, and how much of a cached text a later prompt may keep."""

    chunk: int = 0
    """Rows of all runs of a prompt, where a row's bits depend on its run; 0: they do not."""

    @property
    def most_rows(self) -> int:
        """Rows of the largest run, but for a prompt's own, in which a row has the bits that it has alone."""
        return 63

    def in_runs_of(self, num_rows: int) -> Prefill:
        """Return the same for a backend where a row's bits depend on its run."""
        return replace(self, chunk=num_rows)

    def next_run(self, num_prompt: int, start: int, num_rows: int) -> PrefillRun:
        """Return the run from position `start` on of a text that begins with a prompt of `num_prompt` tokens.

        `num_rows` is what pays. A run may go beyond the end of the text, which cuts it off.
        """
        del num_prompt, start
        return PrefillRun(num_rows, num_rows)

    def usual(self, num_prompt: int, start: int, num_rows: int) -> int:
        """Return the rows of the run from position `start` on, where nobody decodes; `num_rows` is what pays."""
        del num_prompt, start
        return num_rows

    def is_fixed(self, num_prompt: int, start: int) -> bool:
        """Tell whether the run from position `start` on must have the rows that `next_run` says, and no others."""
        del num_prompt, start
        return bool(self.chunk)

    def reusable(self, num_tokens: int, num_common: int, num_read: int, num_prompt: int) -> int:
        """Return how many cached positions a prompt of `num_tokens` may keep: those with the bits of a fresh start.

        The first `num_common` of them (fewer than `num_tokens`) hold its tokens. The first `num_read` were computed as
        a prompt, of `num_prompt` tokens then.
        """
        del num_tokens, num_prompt
        return min(num_common, num_read) // self.chunk * self.chunk if self.chunk else num_common

    def kept(self, num_prompt: int, num_common: int, num_read: int, written_for: int) -> int:
        """Return how many of `num_common` cached positions a text may keep that begins with such a prompt.

        It goes on behind the prompt where its request begins for a second time. The first `num_read` cells were
        computed as a prompt, of `written_for` tokens then. A text without a prompt keeps none: it is to be scored.
        """
        if not num_prompt:
            return 0
        if num_common > num_prompt == written_for == num_read:
            return num_common  # an answer after the same prompt, computed as answers are
        return self.reusable(num_prompt, min(num_common, num_prompt), num_read, written_for)


class FreePolicy(Protocol):
    """When the cells of dead nodes are freed."""

    num_cells: int
    """Cells of dead nodes that are kept; some may never have been written."""

    @property
    def seq(self) -> SeqId | None:
        """A sequence id that the policy keeps for itself."""

    @property
    def must_collect(self) -> bool:
        """Whether no more draft tokens may be dispatched before `collect`."""

    @property
    def should_collect(self) -> bool:
        """Whether `collect` is worth its cost, should only the accepted text be alive."""

    def free(self, dead: Sequence[Node], root: Node, survivor: Node) -> list[CacheOp]:
        """Return the operations for nodes that died below `survivor` in the tree of `root`; give their ids back."""

    def collect(self, seq: SeqId) -> list[CacheOp]:
        """Return the operations that free what `free` has kept; only the cells of the text `seq` are alive."""


class FreeAtOnce:
    """Dead cells are free, for any row to take."""

    num_cells = 0
    seq = None
    must_collect = False
    should_collect = False

    def __init__(self, pool: SequencePool) -> None:
        self._pool = pool

    def free(self, dead: Sequence[Node], root: Node, survivor: Node) -> list[CacheOp]:
        """See `FreePolicy`."""
        del root
        return drop_dead(dead, survivor, self._pool)

    def collect(self, seq: SeqId) -> list[CacheOp]:
        """See `FreePolicy`."""
        del seq
        return []


@dataclass(frozen=True, slots=True)
class BackendTraits:
    """The traits of a backend for one job."""

    is_row_exact: bool = True
    """Whether a row has the same bits in runs of any size, with any number of threads."""
    may_gather: bool = True
    """Whether runs may have several draft tokens: not where that would change a text that is exact without."""
    may_branch: bool = True
    """Whether a row has the same bits over the holes that a tree leaves in the order of cells."""
    prefill: Prefill = field(default_factory=Prefill)
    freeing: Callable[[SequencePool], FreePolicy] = FreeAtOnce
    shares_cells: bool = True
    """Whether requests share the cells of common prefixes: not where bits depend on the order of cells."""
    has_own_cells: bool = False
    """Whether each request that runs at once has cells of its own (ADR 0036); else all have those that there are."""
