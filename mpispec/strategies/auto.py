"""Launch what is worth it: calibrated chances against the measured cost of rows and links (design, What to launch).

A run is a comb: a layer of w guesses for one position and, below the likeliest of them, a chain of b - 1 more. One row
is best where a second costs a second run (llama.cpp on a CPU), a layer where rows are cheap and misses dear (many
stages), a chain where rows are free (a GPU, a memory-bound host, few stages). From the launch of a root to the next
miss there are 1 / (1 - q) runs, q being the chance that all of a run's chain is right (of a layer: any of it), and
each brings e tokens on average, so a token takes

    (pass(m) - t(m) + 1 + t(m) / (1 - q)) / (1 + e / (1 - q))

where a run of m = w + b - 1 rows occupies the busiest stage for t(m) and passes an empty pipeline in pass(m).
"""

from __future__ import annotations

import math

from mpispec.core.calibration import Calibration
from mpispec.core.ids import NodeId, Token
from mpispec.core.strategy import Strategy, View
from mpispec.core.tree import Node, NodeState

_LEAST_CHANCE = 0.08
"""Below this a guess costs the stages more than it saves where they share a machine."""
_PROBE_EVERY = 16
"""Accepted tokens between two guesses of a proposer that has been found worthless."""
_DEAR_ROW = 1.5
"""Where two rows cost more than this much of one, the draft shall not guess much beside the likeliest."""
_DEAR_FLOOR = 0.3
"""There, a guess this much less likely than the best of its layer is not guessed below."""
_LEAST_GAIN = 2.5
"""Runs that an alternative must save on average; it takes one itself, and comes late."""
_LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Lengths of chains to weigh; runs of up to 63 rows have the bits of single ones (llama-layer-ranges)."""
_MOST_ROWS = 32
"""Rows that every backend takes in one run."""
_BETTER = 1.02
"""By how much more rows must be better to be taken: the costs of rows are measured, and noisy."""
_CERTAIN = 0.995
"""A run is never taken to be surer than this."""


class Auto(Strategy):
    """Chooses width, length and whether to speculate at every launch, from what has been seen of this request."""

    def __init__(self, width: int = 4, lead: int = 32) -> None:
        self.width = width
        self.lead = lead
        self._calibration = Calibration()
        self._since_probe = 0
        self._likeliest = Calibration(1)
        """Of the likeliest guess for each position, whatever its confidence."""
        self._news = True
        self._is_batching = False
        """Whether it pays to wait until the first stage is free, so that runs grow."""
        self._most_rows = 1
        self._times = [(1.0, 1.0)]
        """By rows, how long a run occupies the busiest stage and how long it takes through an empty pipeline."""

    def begin(self, view: View) -> None:
        """Ask the draft for little beside the likeliest where rows are dear: they are so for the draft itself too.

        For a chain and nothing else where a tree might change the text; runs of one row where longer ones might.
        """
        if not view.may_branch:
            self.width = 1
        self._most_rows = _MOST_ROWS if view.is_row_exact else 1
        if view.cost(2) > _DEAR_ROW:
            self.floor = _DEAR_FLOOR
        self._times = [(view.cost(rows), view.passing(rows)) for rows in range(1, self._most_rows + 1)]

    def choose(self, view: View) -> list[Node]:
        """Launch the root alone, else the likeliest guess with as much beside it and below it as pays."""
        root = view.tree.root
        if root.state is NodeState.PROPOSED:
            return [root]
        if self._news:
            self._is_batching = self._pays_to_batch(view)
            self._news = False
        if self._is_batching and not view.is_first_idle:
            return []
        worthy = [node for node in view.tree.ready() if self._is_worth_it(node, view)]
        if not worthy:
            return []
        reaches = {root.id: 1.0}
        best = max(worthy, key=lambda node: (self._reach(node, reaches), -node.id))
        if not self._is_batching:
            return [best]
        layer = [node for node in view.tree.ready() if node.pos == best.pos]
        layer.sort(key=lambda node: (-self._reach(node, reaches), node.id))
        above = sum(reaches[parent] for parent in {node.parent_id for node in layer})
        beside = [reaches[node.id] / above for node in layer[: self.width]]
        chain = self._chain(layer[0])
        below = [self._calibration.chance(node.prob) for node in chain]
        width, length = self._best_comb(beside, below)
        return layer[:width] + chain[1:length]

    def verdict(self, root: Node, token: Token) -> None:
        """Learn from the decision after `root` how good its guesses were."""
        for child in root.children:
            self._calibration.learn(child.prob, child.token == token)
        if root.children:
            likeliest = max(root.children, key=lambda child: child.prob)
            self._likeliest.learn(0.0, likeliest.token == token)

    def accepted(self, count: int) -> None:
        """Count towards the next probe."""
        self._since_probe += count
        self._news = True

    def _is_worth_it(self, node: Node, view: View) -> bool:
        """Tell whether a guess shall be launched when its turn comes.

        An alternative to a launched guess delays all that comes after it by one run, and saves the refilling of the
        pipeline if it is right.
        """
        chance = self._calibration.chance(node.prob)
        if _has_launched_sibling(node):
            return view.may_branch and chance * (view.passing(1) - 1.0) > _LEAST_GAIN
        if chance >= _LEAST_CHANCE:
            return True
        if self._since_probe < _PROBE_EVERY:
            return False
        self._since_probe = 0
        return True

    def _pays_to_batch(self, view: View) -> bool:
        """Tell whether runs of several rows are better than runs of one."""
        if self._most_rows == 1:
            return False
        if view.cost(2) <= _DEAR_ROW:
            return True
        chances = [self._likeliest.chance(0.0)] * min(self.lead, _MOST_ROWS)
        return self._best_comb(chances[:1], chances) != (1, 1)

    def _best_comb(self, beside: list[float], below: list[float]) -> tuple[int, int]:
        """Return the width and the length of the comb that takes least time a token.

        `beside` are the chances of a layer's guesses, `below` those of the chain, each given the one before it. Weighed
        are all layers, and chains with nothing or the whole layer beside them.
        """
        best, best_s = (1, 1), math.inf
        any_right = 0.0
        for width, chance in enumerate(beside, 1):
            any_right += chance
            token_s = self._token_s(width, any_right, any_right)
            if token_s * _BETTER < best_s:
                best, best_s = (width, 1), token_s
        for width, others in {1: 0.0, len(beside): any_right - beside[0]}.items():
            reach, expected = 1.0, others
            for length, chance in enumerate(below[: self._most_rows + 1 - width], 1):
                reach *= chance
                expected += reach
                if length > 1 and (length in _LENGTHS or length == len(below)):
                    token_s = self._token_s(width + length - 1, reach, expected)
                    if token_s * _BETTER < best_s:
                        best, best_s = (width, length), token_s
        return best

    def _token_s(self, num_rows: int, goes_on: float, expected: float) -> float:
        """Return the time of a token with such runs; the formula at the top of the module."""
        cost, passing = self._times[num_rows - 1]
        runs = 1.0 / (1.0 - min(_CERTAIN, goes_on))
        return (passing - cost + 1.0 + cost * runs) / (1.0 + expected * runs)

    @staticmethod
    def _chain(node: Node) -> list[Node]:
        """Return a guess and what is likeliest below it."""
        chain = [node]
        while chain[-1].children and len(chain) < _MOST_ROWS:
            chain.append(max(chain[-1].children, key=lambda child: child.prob))
        return chain

    def _reach(self, node: Node, known: dict[NodeId, float]) -> float:
        """Return the calibrated chance that all guesses down to `node` are right; `known` are those of others."""
        reach = known.get(node.id)
        if reach is None:
            assert node.parent is not None
            reach = known[node.id] = self._reach(node.parent, known) * self._calibration.chance(node.prob)
        return reach


def _has_launched_sibling(node: Node) -> bool:
    return node.parent is not None and any(child.state is NodeState.LAUNCHED for child in node.parent.children)
