"""How far to speculate while other requests are active: what a row brings under the present load.

N requests share runs of M rows, each with m rows of a request; a request has rows in every run, or in every N m / M th.
With t(M) the time between two runs, pass(M) that of a run through the pipeline, d = max(1, N m / M) t(M) the time
between two runs with rows of the same request, h the chance of a draft token, a token of a request takes

    flowing, d < pass: (pass + l + d h / (1 - h^m)) / (1 + (h + ... + h^m) / (1 - h^m))
    waiting:           max(d, pass + (m - 1) s, N (m - 1) s) / (1 + h + ... + h^(m - 1))

Flowing, a newest token that nobody has drafted goes alone, and its draft tokens with the next run of the request;
l = t(M) / 2, for which it waits until the first stage is free, counts where m = 1: in longer runs draft tokens made
meanwhile make up for it. Waiting, the m rows of a request are in one run; s is a step of the draft, which serves all.
Plans that were forced (2 and 8 requests, 4 and 8 stages, 0.3 to 0.9 right, the costs of rows of `python
scripts/research crowd`) wrote 0.88 to 1.08 of this in virtual time, the lower figures being long chains at the ends of
answers. N requests write N times as fast as one. The best m and M say how many tokens of a request are in flight
unverified, and so how likely the least likely row is that still pays. With many requests that is the newest token
alone: the rows of others fill the pipeline.
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
_CERTAIN = 99
"""Hundredths that a draft token is right at most."""
_BETTER = 1.01
"""By how much larger runs must be better: costs and chances are estimates."""
_STAYING = 1.03
"""By how much another plan must be better than the one that is followed, and a chain longer or shorter than the others:
runs of unlike lengths wait for each other on every stage. With 1 `auto` was at 0.92 to 0.95 of fixed chains of 3 rows
(`cpu8`, 8 stages, 8 requests, 0.85 right) and of single rows (`gpu4`, 4 stages, 2 requests) where it is at 1 now."""
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
"""Verifications that the draft's first promise counts for, as it does for a request alone, and that the acceptance rate
is the mean of."""


class Plan(NamedTuple):
    """How requests share runs."""

    size: int
    """Rows of a run, of all requests."""
    length: int
    """Of these, rows of one request."""
    waits: bool
    """Whether they are the newest token and a chain below it, and nothing else goes before their verification."""
    together: int = 1
    """Requests that share a run, where they wait."""


class Depth(NamedTuple):
    """How far a request should go beyond its newest token."""

    tokens: int
    """Draft tokens in flight on its most probable path; 0: speculation does not pay."""
    plan: Plan
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
        self._plans: dict[tuple[int, int], Plan] = {}
        """The best, by load and acceptance rate in hundredths."""
        self._chosen: dict[int, Plan] = {}
        """By load, what was found best and is kept while nothing is much better."""
        self._depth: tuple[tuple[int, int], Depth] | None = None
        """The last answer, and for which load and acceptance rate."""
        self._read(view)

    def depth(self, view: View) -> Depth:
        """Return how far to speculate under the load of now, where draft tokens are right as often as usual."""
        self._asked += 1
        if self._asked % _REREAD == 0:
            self._read(view)
        key = load, hundredths = view.load, min(round(self.usual.rate * 100.0), _CERTAIN)
        if self._depth is None or self._depth[0] != key:
            self._depth = key, self._next(load, hundredths)
        return self._depth[1]

    def _read(self, view: View) -> None:
        """Learn what rows cost by now."""
        self._cost = [math.inf, *(view.cost(rows) for rows in range(1, _SIZES[-1] + 1))]
        self._passing = [math.inf, *(view.passing(rows) for rows in range(1, _SIZES[-1] + 1))]
        self._plans.clear()
        self._depth = None

    def _next(self, load: int, hundredths: int) -> Depth:
        is_free = self._passing[-1] <= _FREE * self._passing[1] and self._cost[-1] <= _FREE * self._cost[1]
        if is_free and _SIZES[-1] * self._passing[-1] >= load * _ROOM * self._cost[-1]:
            return Depth(max(_LENGTHS), Plan(max(_SIZES), max(_LENGTHS), False), _LEAST, 1.0)
        acceptance = hundredths / 100.0
        right = _expected(acceptance)
        best = self._plans.get((load, hundredths))
        if best is None:
            best = self._plans[load, hundredths] = self._best(load, right)
        plan = self._kept(self._chosen.get(load, best), best, load, acceptance)
        if self.usual.is_promised:
            self._chosen[load] = plan
        tokens, least = plan.length - 1, 0.0
        if not plan.waits:
            tokens = plan.length * math.ceil(self._passing[plan.size] / self._apart(plan, load))
            least = max(_LEAST, acceptance ** (tokens + _BEYOND))
        return Depth(tokens, plan, least, self._token_s(plan, load, right))

    def _kept(self, plan: Plan, best: Plan, load: int, acceptance: float) -> Plan:
        """Return the best plan if it is better than the one that is followed whatever the error of the rate."""
        error = self.usual.at_best - self.usual.rate
        for rate in (max(0.0, acceptance - error), min(_CERTAIN / 100.0, acceptance + error)):
            right = _expected(rate)
            if self._token_s(best, load, right) * _STAYING >= self._token_s(plan, load, right):
                return plan
        return best

    def _best(self, load: int, right: Sequence[float]) -> Plan:
        best, best_s = Plan(1, 1, True), math.inf
        for size, length in itertools.product(_SIZES, _LENGTHS):
            if length > self._most_rows or size > load * length or (self._is_apart and size != length):
                continue
            plans = [Plan(size, length, False)]
            if size >= length:
                together = _even(load, size // length)
                plans.append(Plan(length * together, length, True, together))
            for plan in plans:
                token_s = self._token_s(plan, load, right)
                if token_s * _BETTER < best_s:
                    best, best_s = plan, token_s
        return best

    def _token_s(self, plan: Plan, load: int, right: Sequence[float]) -> float:
        """Return how long a token of a request takes; the formulas at the top of the module.

        `right`: by length, how many draft tokens of a chain are right on average.
        """
        if plan.waits:
            return self._turn_s(plan.length, plan.together, plan.length - 1, load) / (1.0 + right[plan.length - 1])
        apart, passing = self._apart(plan, load), self._passing[plan.size]
        if apart >= passing:
            return math.inf
        apart = max(apart, plan.length * self._drafting(load))
        runs = 1.0 / (1.0 - right[1] ** plan.length)
        late = self._cost[plan.size] / 2.0 if plan.length == 1 else 0.0
        return (passing + late + apart * right[1] * runs) / (1.0 + right[plan.length] * runs)

    def _apart(self, plan: Plan, load: int) -> float:
        """Return the time between two runs with rows of a request, where runs flow."""
        return max(1.0, load * plan.length / plan.size) * self._cost[plan.size]

    def prefix(self, depth: Depth, load: int, chances: Sequence[float]) -> int:
        """Return how many draft tokens of a complete chain go with the newest token, where `depth` waits.

        From its end on they stay behind while one brings less than others write in the time that it takes.
        """
        together, drafted = depth.plan.together, len(chances)
        path_probs = list(itertools.accumulate(chances, operator.mul))
        rows = min(drafted + 1, _SIZES[-1] // together)
        turn_s = [self._turn_s(most, together, drafted, load) for most in range(1, rows + 1)]
        while rows > 1 and path_probs[rows - 2] * depth.token_s * _STAYING < turn_s[rows - 1] - turn_s[rows - 2]:
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


def _expected(acceptance: float) -> list[float]:
    """Return by length how many draft tokens of a chain are right on average."""
    return [0.0, *itertools.accumulate(acceptance**place for place in range(1, max(_LENGTHS) + 1))]


def _even(load: int, together: int) -> int:
    """Return how many requests share a run where as many runs as with `together` carry about equally many.

    Of 32, three runs of nine leave five: who waits for nine there waits until one of the three is back.
    """
    return -(-load // -(-load // together))
