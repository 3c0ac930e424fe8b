"""Closed forms of a cascade's steady state (docs/methodology.md), with one acceptance rate for all draft tokens."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from mpispec.sim.cascade import CascadeModel

_NEGLIGIBLE = 1e-9
_MOST_PASSES = 20_000
_LEAD = 48
_MOST_ROWS = 32
"""Defaults of `PipeSpec`."""


def seconds_per_token(acceptance: float, step_s: float, rows_s: Sequence[float], lead: int = _LEAD) -> float:
    """Return the mean seconds per token of a level whose upstream gives a draft token every `step_s` seconds.

    `rows_s` are the seconds of a pass of 1, 2, ... rows, the last holding for more; `acceptance` is the chance that a
    draft token is right. Sums over the passes between two corrections, each weighted by the chance that it happens.
    """
    tokens = seconds = 0.0
    weight = 1.0
    decided, upstream = 0, 0.0
    for _ in range(_MOST_PASSES):
        rows = _paying(acceptance, int(upstream + _NEGLIGIBLE) - decided, rows_s)
        cost = _of(rows_s, rows)
        tokens += weight * sum(acceptance**row for row in range(rows))
        seconds += weight * cost
        upstream = min(upstream + cost / step_s, float(max(decided + lead, upstream)))
        decided += rows
        has_draft_token = int(upstream + _NEGLIGIBLE) >= decided
        weight *= acceptance ** (rows if has_draft_token else rows - 1)
        upstream = max(upstream, float(decided))  # a level that is behind receives what was decided
        if weight < _NEGLIGIBLE:
            break
    return seconds / tokens


def cascade_seconds_per_token(cascade: Sequence[CascadeModel], target_rows_s: Sequence[float]) -> float:
    """Return the mean seconds per token of the target; `cascade` from the lowest model up, each with one stage.

    The stream of each level is taken for one of its mean pace, which is where this is an approximation.
    """
    step_s = cascade[0].rows_s[0]
    for below, model in itertools.pairwise(cascade):
        step_s = seconds_per_token(below.acceptance, step_s, model.rows_s)
    return seconds_per_token(cascade[-1].acceptance, step_s, target_rows_s)


def _paying(acceptance: float, draft_tokens: int, rows_s: Sequence[float]) -> int:
    """Return how many rows bring the most tokens in the time of their pass, as `PipeSpec` chooses them."""
    most = min(draft_tokens + 1, _MOST_ROWS)
    rates = [sum(acceptance**row for row in range(rows)) / _of(rows_s, rows) for rows in range(1, most + 1)]
    return max(range(1, most + 1), key=lambda rows: (rates[rows - 1], rows))


def _of(rows_s: Sequence[float], rows: int) -> float:
    return rows_s[min(rows, len(rows_s)) - 1]
