"""Launch what is worth it: calibrated chances against the measured cost of rows (design, What to launch).

A run of m rows occupies the slowest stage for t(m). A filled pipeline of D stages with chance h that a layer holds the
right token commits 1 / (t(m) (1 + (1 - h)(D - 1))) tokens a second, so a layer is as wide as maximises that: one row
where a second row costs a second run (llama.cpp on a CPU), several where rows are free (a GPU, a memory-bound host).
A stage that would idle takes the next best guess for nothing; a proposer that is always wrong is asked only now and
then.
"""

from __future__ import annotations

from mpispec.core.calibration import Calibration
from mpispec.core.ids import Token
from mpispec.core.strategy import Strategy, View
from mpispec.core.tree import Node, NodeState

_LEAST_CHANCE = 0.08
"""Below this a guess costs the stages more than it saves where they share a machine."""
_PROBE_EVERY = 16
"""Accepted tokens between two guesses of a proposer that has been found worthless."""
_FREE_ROW = 1.2
"""Where two rows cost at most this much more than one, width is free."""

_DEAR_ROW = 1.5
"""Where two rows cost more than this much of one, a second guess for a position hardly ever pays."""


class Auto(Strategy):
    """Chooses width, depth and whether to speculate at every launch, from what has been seen of this request."""

    def __init__(self, width: int = 4, lead: int = 32) -> None:
        self.width = width
        self.lead = lead
        self._calibration = Calibration()
        self._since_probe = 0

    def begin(self, view: View) -> None:
        """Ask the draft for a chain where rows are dear: a wide layer would slow down the draft itself too."""
        if view.cost(2) > _DEAR_ROW:
            self.width = 1

    def choose(self, view: View) -> list[Node]:
        """Launch the root alone, else as much of the next layer as pays, else an alternative if a stage idles."""
        root = view.tree.root
        if root.state is NodeState.PROPOSED:
            return [root]
        ready = self._ready(view)
        fresh = [node for node in ready if not _has_launched_sibling(node)]
        if not fresh and not self._may_hedge(view):
            return []
        best = max(fresh or ready, key=lambda node: (self._reach(node), -node.id), default=None)
        if best is None:
            return []
        return self._paying([node for node in ready if node.pos == best.pos], view)

    def verdict(self, root: Node, token: Token) -> None:
        """Learn from the decision after `root` how good its guesses were."""
        for child in root.children:
            self._calibration.learn(child.prob, child.token == token)

    def accepted(self, count: int) -> None:
        """Count towards the next probe."""
        self._since_probe += count

    def _ready(self, view: View) -> list[Node]:
        """Return the unlaunched nodes under computed parents that have a chance worth a row."""
        return [node for node in view.tree.ready() if self._is_worth_it(node)]

    @staticmethod
    def _may_hedge(view: View) -> bool:
        """Tell whether an alternative to a launched guess costs nothing, or a stage would idle without it."""
        return view.cost(2) <= _FREE_ROW or view.live_runs < view.num_stages // 2

    def _is_worth_it(self, node: Node) -> bool:
        if self._calibration.chance(node.prob) >= _LEAST_CHANCE:
            return True
        if self._since_probe < _PROBE_EVERY:
            return False
        self._since_probe = 0
        return True

    def _paying(self, layer: list[Node], view: View) -> list[Node]:
        """Return the likeliest nodes of a layer, as many as maximise the rate of a filled pipeline."""
        layer = sorted(layer, key=lambda node: (-self._reach(node), node.id))[: self.width]
        parents = {node.parent for node in layer}
        above = sum(self._reach(parent) for parent in parents if parent is not None) or 1.0
        best, best_rate, chance = 1, 0.0, 0.0
        for size, node in enumerate(layer, 1):
            chance = min(1.0, chance + self._reach(node) / above)
            rate = 1.0 / (view.cost(size) * (1.0 + (1.0 - chance) * (view.num_stages - 1)))
            if rate > best_rate * 1.02:
                best, best_rate = size, rate
        return layer[:best]

    def _reach(self, node: Node) -> float:
        """Return the calibrated chance that all guesses down to `node` are right."""
        chance = 1.0
        while node.parent is not None:
            chance *= self._calibration.chance(node.prob)
            node = node.parent
        return chance


def _has_launched_sibling(node: Node) -> bool:
    return node.parent is not None and any(child.state is NodeState.LAUNCHED for child in node.parent.children)
