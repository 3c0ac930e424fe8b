"""Runs of a long prompt: rows that are attended for in tiles (ADR 0021)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tiling:
    """Which prompts are computed in tiles, and in which runs.

    llama.cpp attends in tiles where a run has `tile` rows or more. Over a long context that halves the time of a row
    and moves its last bits; which of these runs a row is in does not. So that bits depend on the prompt alone (law 6),
    all positions of a long prompt are computed in tiles, and none of another one.
    """

    tile: int = 64
    long: int = 512
    """Tokens of the shortest prompt that is computed in tiles; at least `tile`."""

    @property
    def most_rows(self) -> int:
        """Rows of the largest run that `next_run` asks for."""
        runs, over = self.long // self.tile, self.tile - 1
        return self.tile + -(-over // runs)

    def is_long(self, num_tokens: int) -> bool:
        """Tell whether a prompt of so many tokens is computed in tiles."""
        return num_tokens >= self.long

    def next_run(self, num_missing: int) -> int:
        """Return the rows of the next run where at least `tile` positions of a long prompt are missing."""
        return -(-num_missing // (num_missing // self.tile))

    def reusable(self, num_tokens: int, num_common: int, num_tiled: int) -> int:
        """Return how many cached positions a prompt of `num_tokens` may keep.

        The first `num_common` of them (fewer than `num_tokens`) hold its tokens, the first `num_tiled` were computed in
        tiles. What a long prompt lacks is whole tiles, or all of it.
        """
        if not self.is_long(num_tokens):
            return 0 if num_tiled else num_common
        missing = num_tokens - min(num_common, num_tiled)
        return max(0, num_tokens - -(-missing // self.tile) * self.tile)
