"""How far to speculate while other requests are active: what a row brings under the present load.

N requests share runs of M rows, each with m rows of a request; a request has rows in every run, or in every N m / M th.
With t(M) the time between two runs, pass(M) that of a run through the pipeline, d = max(1, N m / M) t(M) the time
between two runs with rows of the same request, h the chance of a draft token, a token of a request takes

    flowing, d < pass: (pass + l + d h / (1 - h^m)) / (1 + (h + ... + h^m) / (1 - h^m))
    waiting:           max(d, pass + (m - 1) s, N (m - 1) s) / (1 + h + ... + h^(m - 1))

Flowing, a newest token that nobody has drafted goes alone, and its draft tokens with the next run of the request;
l = t(M) / 2, for which it waits until the first stage is free, counts where m = 1: in longer runs draft tokens made
meanwhile make up for it. Waiting, the m rows of a request are in one run; s is a step of the draft, which serves all.
With 2 or 8 requests on 4 or 8 stages and the three costs of rows of `python scripts/research crowd`, plans of either
kind wrote 0.88 to 1.2 of this in virtual time, the best ones 0.95 to 1.05. N requests write N times as fast as one. The
best m and M say how many tokens of a request are in flight unverified, and so how likely the least likely row is that
still pays. With many requests that is the newest token alone: the rows of others fill the pipeline.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from typing import NamedTuple

from mpispec.core.draft import TOGETHER
from mpispec.core.strategy import View
from mpispec.strategies.trust import AcceptanceRate

_LENGTHS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32)
_SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 32, 48, 63)
_CERTAIN = 0.995
_BETTER = 1.01
"""By how much larger runs must be better: costs and chances are estimates."""
_BEYOND = 3.0
"""The least likely row that pays has the path probability of a chain of the best depth and this much more: chances are
estimates, and where others have nothing to dispatch a row costs less than under the mean load."""
_FREE = 1.1
"""Where the longest run takes no more than this much of one row and has room, there is nothing to weigh: all that is
ready goes."""
_ROOM = 12.0
"""Rows in flight of each request that are room enough: where 32 requests had 16 each (8 stages, free rows, 0.5 right)
all that was ready wrote 1.15 of chains that wait, where they had 8 each (4 stages) 0.97."""
_REREAD = 1024
"""Questions after which the costs of rows, which are refined all the time, are read again."""
_LEAST = 0.005
"""Rows less likely than this are never worth the head's time."""
_PROMISED, _MEMORY = 32, 400
"""Verifications that the draft's first promise counts for, and that the acceptance rate is the mean of."""


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
    """Path probability below which a row costs more than it brings, where runs flow."""
    token_s: float
    """How long a token of a request takes so, in times of a run of one row."""


class Crowd:
    """Depths by load and acceptance rate, for one pipeline."""

    def __init__(self, view: View, most_rows: int) -> None:
        """Weigh runs of up to `most_rows` rows."""
        self._most_rows = most_rows
        self._is_apart = view.config.traits.has_own_cells
        """Whether a run carries rows of one request only."""
        self._step = view.config.draft_step if view.is_drafted else 0.0
        self._pair = view.config.draft_pair
        self.usual = AcceptanceRate(_PROMISED, most=_MEMORY)
        """Of the draft tokens of all requests."""
        self._asked = 0
        self._cost: list[float] = []
        self._passing: list[float] = []
        """By rows of a run."""
        self._depths: dict[tuple[int, int], Depth] = {}
        self._read(view)

    def depth(self, view: View) -> Depth:
        """Return how far to speculate under the load of now, where draft tokens are right as often as usual."""
        self._asked += 1
        if self._asked % _REREAD == 0:
            self._read(view)
        key = view.load, round(self.usual.rate * 100.0)
        depth = self._depths.get(key)
        if depth is None:
            depth = self._depths[key] = self._best(view.load, min(self.usual.rate, _CERTAIN))
        return depth

    def _read(self, view: View) -> None:
        """Learn what rows cost by now."""
        self._cost = [math.inf, *(view.cost(rows) for rows in range(1, _SIZES[-1] + 1))]
        self._passing = [math.inf, *(view.passing(rows) for rows in range(1, _SIZES[-1] + 1))]
        self._depths.clear()

    def _best(self, load: int, acceptance: float) -> Depth:
        is_free = self._passing[-1] <= _FREE * self._passing[1] and self._cost[-1] <= _FREE * self._cost[1]
        if is_free and _SIZES[-1] * self._passing[-1] >= load * _ROOM * self._cost[-1]:
            return Depth(max(_LENGTHS), False, max(_SIZES), 1, _LEAST, 1.0)
        best, best_s = Depth(0, True, 1, 1, 1.0, math.inf), math.inf
        right = [0.0, *itertools.accumulate(acceptance**place for place in range(1, max(_LENGTHS) + 1))]
        for size, length in itertools.product(_SIZES, _LENGTHS):
            if length > self._most_rows or size > load * length or (self._is_apart and size != length):
                continue
            if size >= length:
                together = _even(load, size // length)
                token_s = self._turn_s(length, together, length - 1, load) / (1.0 + right[length - 1])
                if token_s * _BETTER < best_s:
                    best, best_s = Depth(length - 1, True, length * together, together, 0.0, token_s), token_s
            apart, passing = max(1.0, load * length / size) * self._cost[size], self._passing[size]
            if apart < passing:
                apart = max(apart, length * self._drafting(load))
                runs = 1.0 / (1.0 - acceptance**length)
                late = self._cost[size] / 2.0 if length == 1 else 0.0
                token_s = (passing + late + apart * acceptance * runs) / (1.0 + right[length] * runs)
                if token_s * _BETTER < best_s:
                    tokens = length * math.ceil(passing / apart)
                    best, best_s = Depth(tokens, False, size, 1, self._least(tokens, acceptance), token_s), token_s
        return best

    def prefix(self, depth: Depth, load: int, chances: Sequence[float]) -> int:
        """Return how many draft tokens of a complete chain go with the newest token, where `depth` waits.

        From its end on they stay behind while one brings less than others write in the time that it takes.
        """
        together, drafted = depth.run_requests, len(chances)
        path_probs = list(itertools.accumulate(chances, operator.mul))
        rows = min(drafted + 1, _SIZES[-1] // together)
        turn_s = [self._turn_s(most, together, drafted, load) for most in range(1, rows + 1)]
        while rows > 1 and path_probs[rows - 2] * depth.token_s < turn_s[rows - 1] - turn_s[rows - 2]:
            rows -= 1
        return rows - 1

    def _turn_s(self, rows: int, together: int, drafted: int, load: int) -> float:
        """Return the time between two runs of a request, where each waits for its verification and then for the draft.

        It has `rows` rows in a run of `together` requests, which come back together and are drafted for together.
        """
        size, drafting = rows * together, drafted * self._step
        late = drafting * (self._pair if together > 1 else 1.0)
        return max(-(-load // together) * self._cost[size], self._passing[size] + late, drafted * self._drafting(load))

    def _drafting(self, load: int) -> float:
        """Return how long the draft takes for one draft token of each request, what is known of two rows holding on."""
        rows = min(load, TOGETHER)
        return load * self._step * min(1.0, (1.0 + (rows - 1) * (self._pair - 1.0)) / rows)

    @staticmethod
    def _least(tokens: int, acceptance: float) -> float:
        return max(_LEAST, acceptance ** (tokens + _BEYOND)) if tokens else 1.0


def _even(load: int, together: int) -> int:
    """Return how many requests share a run where as many runs as with `together` carry about equally many.

    Of 32, three runs of nine leave five: who waits for nine there waits until one of the three is back.
    """
    return -(-load // -(-load // together))
