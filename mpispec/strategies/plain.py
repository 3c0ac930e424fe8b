"""No speculation: the newest token, one run in flight."""

from __future__ import annotations

from mpispec.core.strategy import Strategy, View
from mpispec.core.tree import Node, NodeState


class Plain(Strategy):
    """What a layer split does today; the reference for every other strategy's output."""

    lead = 0
    waits = True

    def choose(self, view: View) -> list[Node]:
        """Dispatch the root, once."""
        return [view.tree.root] if view.tree.root.state is NodeState.PENDING else []
