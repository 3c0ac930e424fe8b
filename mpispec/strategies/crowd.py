"""How far to speculate while other requests are active: what a row brings under the present load.

N requests share runs of M rows, each with m rows of a request; a request has rows in every run, or in every N m / M th.
With t(M) the time between two runs, pass(M) that of a run through the pipeline, d = max(1, N m / M) t(M) the time
between two runs with rows of the same request, h the chance of a draft token, a token of a request takes

    flowing, d < pass:  (pass + d (1 / (1 - h^m) - 1)) / (1 + (h + ... + h^m) / (1 - h^m))
    waiting, d >= pass: max(d, pass + (m - 1) s, N (m - 1) s) / (1 + h + ... + h^(m - 1))

where s is a step of the draft, which serves all; waiting, the m rows of a request are in one run. It is as in
`economy.py`, and N requests write N times as fast as one. The best m and M say how many tokens of a request are in
flight unverified, and so how likely the least likely row is that still pays. With many requests that is the newest
token alone: the rows of others fill the pipeline.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

from mpispec.core.strategy import View

_LENGTHS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32)
_SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 32, 48, 63)
_CERTAIN = 0.995
_FLOWING, _FLOWING_WIDE = 1.1, 1.25
"""By how much flowing must be better, with runs of one row and of several: rows are dispatched in vain, and in virtual
time it wrote less than the formula says by about as much."""
_BETTER = 1.01
"""By how much larger runs must be better: costs and chances are estimates."""
_BEYOND = 3.0
"""The least likely row that pays has the path probability of a chain of the best depth and this much more: chances are
estimates, and where others have nothing to dispatch a row costs less than under the mean load."""
_FREE = 1.1
"""Where the longest run takes no more than this much of one row, there is nothing to weigh: all that is ready goes."""
_REREAD = 1024
"""Questions after which the costs of rows, which are refined all the time, are read again."""
_LEAST = 0.005
"""Rows less likely than this are never worth the head's time."""


class Depth(NamedTuple):
    """How far a request should go beyond its newest token."""

    tokens: int
    """Draft tokens in flight on its most probable path; 0: speculation does not pay."""
    waits: bool
    """Whether all of them go with the newest token, and nothing else before their verification."""
    run_rows: int
    """Rows of a run, of all requests."""
    run_requests: int
    """Requests that share a run, where they wait."""
    least: float
    """Path probability below which a row costs more than it brings."""


class Crowd:
    """Depths by load and acceptance rate, for one pipeline."""

    def __init__(self, view: View, most_rows: int) -> None:
        """Weigh runs of up to `most_rows` rows."""
        self._most_rows = most_rows
        self._is_apart = view.config.traits.has_own_cells
        """Whether a run carries rows of one request only."""
        self._step = view.config.draft_step if view.is_drafted else 0.0
        self._asked = 0
        self._cost: list[float] = []
        self._passing: list[float] = []
        self._depths: dict[tuple[int, int], Depth] = {}
        self._read(view)

    def depth(self, view: View, acceptance: float) -> Depth:
        """Return how far to speculate under the load of now, where draft tokens are right so often."""
        self._asked += 1
        if self._asked % _REREAD == 0:
            self._read(view)
        key = view.load, round(acceptance * 100.0)
        depth = self._depths.get(key)
        if depth is None:
            depth = self._depths[key] = self._best(view.load, min(acceptance, _CERTAIN))
        return depth

    def _read(self, view: View) -> None:
        """Learn what rows cost by now."""
        self._cost = [view.cost(rows) for rows in _SIZES]
        self._passing = [view.passing(rows) for rows in _SIZES]
        self._depths.clear()

    def _best(self, load: int, acceptance: float) -> Depth:
        if self._passing[-1] <= _FREE * self._passing[0] and self._cost[-1] <= _FREE * self._cost[0]:
            return Depth(max(_LENGTHS), False, max(_SIZES), 1, _LEAST)
        best, best_s = Depth(0, True, 1, 1, 1.0), math.inf
        right = [0.0, *itertools.accumulate(acceptance**place for place in range(1, max(_LENGTHS) + 1))]
        for size, cost, passing in zip(_SIZES, self._cost, self._passing, strict=True):
            for length in _LENGTHS:
                if length > self._most_rows or size > load * length or (self._is_apart and size != length):
                    continue
                apart = max(1.0, load * length / size) * cost
                is_waiting = apart >= passing
                if is_waiting and size < length:
                    continue
                if is_waiting:
                    drafting = (length - 1) * self._step
                    tokens, margin = length - 1, _BETTER
                    token_s = max(apart, passing + drafting, load * drafting) / (1.0 + right[length - 1])
                else:
                    apart = max(apart, load * length * self._step)
                    tokens, margin = length * math.ceil(passing / apart), _FLOWING if size == 1 else _FLOWING_WIDE
                    runs = 1.0 / (1.0 - acceptance**length)
                    token_s = (passing + apart * (runs - 1.0)) / (1.0 + right[length] * runs)
                if token_s * margin < best_s:
                    best = Depth(tokens, is_waiting, size, max(1, size // length), self._least(tokens, acceptance))
                    best_s = token_s
        return best

    @staticmethod
    def _least(tokens: int, acceptance: float) -> float:
        return max(_LEAST, acceptance ** (tokens + _BEYOND)) if tokens else 1.0
