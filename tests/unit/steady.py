"""Closed forms of a ladder's steady state (docs/methodology.md), where every guess is right with the same chance."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from mpispec.sim.ladder import Rung

_NEGLIGIBLE = 1e-9
_MOST_PASSES = 20_000
_LEAD = 48
_MOST_ROWS = 32
"""Defaults of `PipeSpec`."""


def seconds_per_token(hit: float, step_s: float, rows_s: Sequence[float], lead: int = _LEAD) -> float:
    """Return the mean seconds a token of a level whose upstream gives a guess every `step_s` seconds.

    `rows_s` are the seconds of a pass of 1, 2, ... rows, the last holding for more; `hit` is the chance that a guess is
    right. Sums over the passes between two corrections, each weighted by the chance that it comes to it.
    """
    tokens = seconds = 0.0
    weight = 1.0
    decided, upstream = 0, 0.0
    for _ in range(_MOST_PASSES):
        rows = _paying(hit, int(upstream + _NEGLIGIBLE) - decided, rows_s)
        cost = _of(rows_s, rows)
        tokens += weight * sum(hit**row for row in range(rows))
        seconds += weight * cost
        upstream = min(upstream + cost / step_s, float(max(decided + lead, upstream)))
        decided += rows
        has_guess = int(upstream + _NEGLIGIBLE) >= decided
        weight *= hit ** (rows if has_guess else rows - 1)
        upstream = max(upstream, float(decided))  # a level that is behind is told what was decided
        if weight < _NEGLIGIBLE:
            break
    return seconds / tokens


def ladder_seconds_per_token(rungs: Sequence[Rung], target_rows_s: Sequence[float]) -> float:
    """Return the mean seconds a token of the target; `rungs` from the lowest up, each with one stage.

    The stream of each level is taken for one of its mean pace, which is where this is an approximation.
    """
    step_s = rungs[0].rows_s[0]
    for below, rung in itertools.pairwise(rungs):
        step_s = seconds_per_token(below.hit, step_s, rung.rows_s)
    return seconds_per_token(rungs[-1].hit, step_s, target_rows_s)


def _paying(hit: float, guesses: int, rows_s: Sequence[float]) -> int:
    """Return how many rows bring the most tokens in the time of their pass, as `PipeSpec` chooses them."""
    most = min(guesses + 1, _MOST_ROWS)
    rates = [sum(hit**row for row in range(rows)) / _of(rows_s, rows) for rows in range(1, most + 1)]
    return max(range(1, most + 1), key=lambda rows: (rates[rows - 1], rows))


def _of(rows_s: Sequence[float], rows: int) -> float:
    return rows_s[min(rows, len(rows_s)) - 1]
