"""Runs of a long prompt: rows that are attended for in tiles (ADR 0021)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tiling:
    """Which prompts are computed in tiles, in which runs, and what a later prompt may keep of them.

    llama.cpp attends in tiles where a run has `tile` rows or more, which over a long context halves the time of a row
    and moves its last bits; one row more costs the attention of another whole tile. So that bits depend on the prompt
    alone (law 6), all positions of a long prompt are computed in runs of a tile, and none of another prompt.
    """

    tile: int = 64
    long: int = 512
    """Tokens of the shortest prompt that is computed in tiles; at least `tile`."""
    chunk: int = 0
    """Rows of the runs in which other prompts are computed, where a row's bits depend on its run; 0: they do not."""

    def is_long(self, num_tokens: int) -> bool:
        """Tell whether a prompt of so many tokens is computed in tiles."""
        return num_tokens >= self.long

    def num_final(self, num_missing: int) -> int:
        """Return how many rows of the next run are final where at least `tile` positions of a long prompt are missing.

        They leave whole tiles. If they are not the whole run, the next one begins over the last rows of this one.
        """
        return (num_missing - 1) % self.tile + 1

    def reusable(self, num_tokens: int, num_common: int, num_read: int, is_tiled: bool) -> int:
        """Return how many cached positions a prompt of `num_tokens` may keep: those with the bits of a fresh start.

        The first `num_common` of them (fewer than `num_tokens`) hold its tokens, the first `num_read` were computed as
        a prompt, in tiles or not. What a long prompt lacks is whole tiles, or all of it.
        """
        if not self.is_long(num_tokens):
            if is_tiled:
                return 0
            return min(num_common, num_read) // self.chunk * self.chunk if self.chunk else num_common
        missing = num_tokens - (min(num_common, num_read) if is_tiled else 0)
        return max(0, num_tokens - -(-missing // self.tile) * self.tile)
