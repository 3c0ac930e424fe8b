"""How many rows the runs have that read a prompt while others decode, whose newest tokens are among them (ADR 0053)."""

from __future__ import annotations

from mpispec.core.config import HeadConfig

SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 63)
"""Rows of a run that are weighed."""
_LONGER, _STILL_LONGER = 1.1, 1.15
"""How many times as long a prompt may be read so that others wait less, and where that halves a wait beyond `_GAP`."""
_GAP = 2.0
"""How many times as long as without the prompt others may wait for a token."""
_FREE = 1.06
"""Draft tokens that make a run no longer than this may go with a prompt."""


def reading(config: HeadConfig, alone: int, num_tokens: int, num_decoding: int) -> tuple[int, int]:
    """Return the rows of runs that read `num_tokens` while `num_decoding` others decode; and with draft tokens too.

    Who decodes waits for D runs. They are the shortest that read nearly as soon as the best, or as `alone` rows alone.
    """
    riding, fill, past = num_decoding / config.num_stages, config.num_stages - 1, num_tokens / 2
    most = config.traits.prefill.most_rows
    longest = min(alone + -(-num_decoding // config.num_stages), max(alone, most))
    sizes = [*(size for size in SIZES if 1 + riding <= size < longest), longest]
    steps = {size: config.cost(size, past=past) for size in sizes}
    times = {size: (num_tokens / max(0.5, size - riding) + fill) * step for size, step in steps.items()}
    best = max((num_tokens / alone + fill) * config.cost(alone, past=past), min(times.values()))

    def shortest(limit: float) -> int:
        return min((size for size, time in times.items() if time <= limit * best), key=steps.__getitem__)

    rows, shorter = shortest(_LONGER), shortest(_STILL_LONGER)
    usual = config.cost(max(1, round(riding)), past=past)
    if steps[rows] > _GAP * usual and steps[shorter] <= steps[rows] / 2:
        rows = shorter
    free = (size for size in SIZES if size <= most and config.cost(size) <= _FREE * config.cost(rows))
    return rows, max(rows, *free)
