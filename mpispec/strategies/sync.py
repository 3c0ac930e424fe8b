"""Synchronous speculation: draft tokens behind the newest token in one run, then a wait for their verification.

The baselines of every pipeline paper: a chain (Leviathan et al. 2211.17192) or a tree (SpecInfer, 2305.09781), both
with sample-then-match acceptance.
"""

from __future__ import annotations

from mpispec.core.strategy import Strategy, View
from mpispec.core.tree import Node, NodeState


class Sync(Strategy):
    """Chains of at most `gamma` draft tokens; a draft token below `p_min` ends the chain."""

    waits = True
    least_path_prob = 0.2  # all rows are waited for: with 0.01 n-grams make it slower by a third where rows cost much

    def __init__(self, gamma: int = 4, p_min: float = 0.0) -> None:
        self.lead = gamma
        self._p_min = p_min

    def choose(self, view: View) -> list[Node]:
        """Dispatch the root with its chain once the chain is complete and nothing is in flight."""
        root = view.tree.root
        if root.state is not NodeState.PENDING or view.live_runs:
            return []
        chain = [root]
        while len(chain) <= self.lead and chain[-1].children:
            best = chain[-1].favourite()
            if best.prob < self._p_min:
                return chain
            chain.append(best)
        is_short = len(chain) <= self.lead
        return [] if is_short and view.is_awaiting_draft else chain


class SyncTree(Strategy):
    """Trees of at most `width` draft tokens a position, `gamma` positions deep and `most_rows` rows large."""

    waits = True
    least_path_prob = 0.1  # cheaper rows are expected than of `Sync`

    def __init__(self, width: int = 4, gamma: int = 4, most_rows: int = 32) -> None:
        self.width = width
        self.lead = gamma
        self._most_rows = most_rows

    def choose(self, view: View) -> list[Node]:
        """Dispatch the root with its tree once the tree is complete and nothing is in flight."""
        root = view.tree.root
        if root.state is not NodeState.PENDING or view.live_runs or view.is_awaiting_draft:
            return []
        # A path is never likelier than what it begins with, so the likeliest nodes are closed under parents.
        likeliest = sorted(root.subtree(), key=lambda node: (-node.path_prob, node.id))[: self._most_rows]
        return sorted(likeliest, key=lambda node: (node.pos, node.id))
