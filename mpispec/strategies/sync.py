"""Synchronous speculation: one chain of guesses behind the newest token, then wait for its verdicts.

The baseline of every pipeline paper (Leviathan et al. 2211.17192, with sample-then-match acceptance).
"""

from __future__ import annotations

from mpispec.core.strategy import Strategy, View
from mpispec.core.tree import Node, NodeState


class Sync(Strategy):
    """Chains of at most `gamma` guesses; a guess below `p_min` ends the chain."""

    def __init__(self, gamma: int = 4, p_min: float = 0.0) -> None:
        self.lead = gamma
        self._p_min = p_min

    def choose(self, view: View) -> list[Node]:
        """Launch the root with its chain once the chain is complete and nothing is in flight."""
        root = view.tree.root
        if root.state is not NodeState.PROPOSED or view.live_runs:
            return []
        chain = [root]
        while len(chain) <= self.lead and chain[-1].children:
            best = max(chain[-1].children, key=lambda child: child.prob)
            if best.prob < self._p_min:
                return chain
            chain.append(best)
        is_short = len(chain) <= self.lead
        return [] if is_short and view.is_awaiting_draft else chain
