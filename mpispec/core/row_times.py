"""What runs of several rows cost: a table measured at the start, and how far it was off since."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

from mpispec.core.tree import Node, NodeState

_NUM_BANDS = 8
"""Corrections are learned for 1, 2, 3 to 4, 5 to 8, ... rows, the last for all beyond."""
_PRIOR_RUNS = 8.0
"""Runs of a size that it takes to believe a correction by half."""
_MEMORY = 32.0
"""Runs that a correction is the mean of: conditions change."""
_MOST_OFF = 4.0
"""One run counts as no more than this many times as long or as short as usual: hosts do other things too."""


def interpolated(measured: Mapping[int, float]) -> tuple[float, ...]:
    """Return a table for 1, 2, 3, ... rows, linear between the row counts that were measured, the first being 1."""
    known = sorted(measured.items())
    table = [known[0][1]]
    for (low, before), (high, after) in itertools.pairwise(known):
        table += [before + (after - before) * (rows - low) / (high - low) for rows in range(low + 1, high + 1)]
    return tuple(table)


class RowTimes:
    """Learns from how long the first stage computes at the runs that it takes, by their rows.

    That is all the head sees of a stage's time: a later one may have waited for its input. The first stage stands for
    all, because what counts is how much more several rows cost than one, and layers are alike. Runs of which a row
    died meanwhile say nothing, nor do prompts, whose runs are as long as they are.
    """

    def __init__(self, table: Callable[[int], float]) -> None:
        """`table` is what was measured at the start, in times of one row."""
        self._table = table
        self._means = [0.0] * _NUM_BANDS
        """By band, the seconds of a run divided by what the table says."""
        self._runs = [0.0] * _NUM_BANDS
        self._nodes: Sequence[Node] = ()
        """Of the run that the first stage computes now; none where it must not count."""
        self._since = 0.0

    def began(self, nodes: Sequence[Node], now: float) -> None:
        """Note that the first stage has begun a run, so it has ended the one before."""
        self.ended(now)
        self._nodes, self._since = nodes, now

    def ended(self, now: float) -> None:
        """Note that the first stage has nothing left to compute."""
        nodes, self._nodes = self._nodes, ()
        for node in nodes:
            if node.state is NodeState.DEAD:
                return
        if nodes and now > self._since:
            self._learn(len(nodes), now - self._since)

    def correction(self, num_rows: int) -> float:
        """Return the factor by which `num_rows` rows cost more than measured at the start, one row being right."""
        band = _band(num_rows)
        runs = min(self._runs[band], self._runs[0])
        if not band or not runs:
            return 1.0
        return (_PRIOR_RUNS + runs * self._means[band] / self._means[0]) / (_PRIOR_RUNS + runs)

    def _learn(self, num_rows: int, seconds: float) -> None:
        band = _band(num_rows)
        unit, mean = seconds / self._table(num_rows), self._means[band]
        if self._runs[band]:
            unit = min(max(unit, mean / _MOST_OFF), mean * _MOST_OFF)
        self._runs[band] = min(_MEMORY, self._runs[band] + 1.0)
        self._means[band] = mean + (unit - mean) / self._runs[band]


def _band(num_rows: int) -> int:
    return min(_NUM_BANDS - 1, (num_rows - 1).bit_length())
