"""Launch what is worth it: calibrated chances against the measured cost of rows (design, What to launch).

A run of m rows occupies the slowest stage for t(m). A filled pipeline of D stages with chance h that a layer holds the
right token commits 1 / (t(m) (1 + (1 - h)(D - 1))) tokens a second, so a layer is as wide as maximises that: one row
where a second row costs a second run (llama.cpp on a CPU), several where rows are free (a GPU, a memory-bound host).
A stage that would idle takes the next best guess for nothing; a proposer that is always wrong is asked only now and
then.
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
"""Where two rows cost more than this much of one, a second guess for a position hardly ever pays."""
_LEAST_GAIN = 1.5
"""Runs that an alternative must save on average; it takes one itself, and comes late."""
_DEAR_FLOOR = 0.3
"""There, a guess this much less likely than the best of its layer is not guessed below."""
_MOST_ROWS = 16
"""Rows of one run; with more, a verdict takes longer to come than its run is worth."""
_BETTER = 1.02
"""By how much a larger run must be better to be taken: the costs of rows are measured, and noisy."""


class Auto(Strategy):
    """Chooses width, depth and whether to speculate at every launch, from what has been seen of this request."""

    def __init__(self, width: int = 4, lead: int = 32) -> None:
        self.width = width
        self.lead = lead
        self._calibration = Calibration()
        self._since_probe = 0
        self._are_rows_cheap = False

    def begin(self, view: View) -> None:
        """Ask the draft for little beside the likeliest where rows are dear: they are so for the draft itself too."""
        self._are_rows_cheap = view.cost(2) <= _DEAR_ROW
        if not self._are_rows_cheap:
            self.floor = _DEAR_FLOOR

    def choose(self, view: View) -> list[Node]:
        """Launch the root alone, else the likeliest guess with as much beside it or below it as pays."""
        root = view.tree.root
        if root.state is NodeState.PROPOSED:
            return [root]
        if self._are_rows_cheap and view.waiting_runs:
            return []  # a run that waits may as well wait here and grow
        worthy = [node for node in view.tree.ready() if self._is_worth_it(node, view)]
        if not worthy:
            return []
        reaches = {root.id: 1.0}
        best = max(worthy, key=lambda node: (self._reach(node, reaches), -node.id))
        if not self._are_rows_cheap:
            return [best]
        layer = [node for node in view.tree.ready() if node.pos == best.pos]
        layer.sort(key=lambda node: (-self._reach(node, reaches), node.id))
        above = sum(reaches[parent] for parent in {node.parent_id for node in layer})
        width, layer_s = self._best_width([reaches[node.id] for node in layer], above, view)
        chain = self._chain(best)
        length, chain_s = self._best_length([self._calibration.chance(node.prob) for node in chain], view)
        return chain[:length] if chain_s * _BETTER < layer_s else layer[:width]

    def verdict(self, root: Node, token: Token) -> None:
        """Learn from the decision after `root` how good its guesses were."""
        for child in root.children:
            self._calibration.learn(child.prob, child.token == token)

    def accepted(self, count: int) -> None:
        """Count towards the next probe."""
        self._since_probe += count

    def _is_worth_it(self, node: Node, view: View) -> bool:
        """Tell whether a guess shall be launched when its turn comes.

        An alternative to a launched guess delays all that comes after it by one run, and saves the refilling of the
        pipeline if it is right.
        """
        chance = self._calibration.chance(node.prob)
        if _has_launched_sibling(node):
            return chance * (view.num_stages - 1) > _LEAST_GAIN
        if chance >= _LEAST_CHANCE:
            return True
        if self._since_probe < _PROBE_EVERY:
            return False
        self._since_probe = 0
        return True

    def _best_width(self, reaches: list[float], above: float, view: View) -> tuple[int, float]:
        """Return how many of a layer's guesses to launch, and the time of a token in a pipeline filled with such."""
        best, best_s, chance = 1, math.inf, 0.0
        for size, reach in enumerate(reaches[: self.width], 1):
            chance = min(1.0, chance + reach / above)
            token_s = view.cost(size) * (1.0 + (1.0 - chance) * (view.num_stages - 1))
            if token_s * _BETTER < best_s:
                best, best_s = size, token_s
        return best, best_s

    def _best_length(self, chances: list[float], view: View) -> tuple[int, float]:
        """Return how many guesses of a chain to launch as one run, and the time of a token with such runs.

        Runs of b rows bring b tokens every t(b); a miss costs the pass of the new root and makes what follows it wait
        for runs that take longer on every stage.
        """
        best, best_s, total = 1, math.inf, 0.0
        for size, chance in enumerate(chances, 1):
            total += chance
            hit, cost = total / size, view.cost(size)
            token_s = hit * cost / size + (1.0 - hit) * (1.0 + (view.num_stages - 1) * cost)
            if token_s * _BETTER < best_s:
                best, best_s = size, token_s
        return best, best_s

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
