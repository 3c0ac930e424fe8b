"""SpecPipe and its first version PipeDec (arXiv 2504.04104): one layer of a dynamic tree for each pipeline step.

The draft expands the whole frontier in one pass and keeps the best of each layer by path probability. Verification
keeps the subtree under the decided token, so that what any rank has computed of it stays useful. Layers are paced by
credits, not by a barrier for each pipeline step as in the paper (ADR 0012).
"""

from __future__ import annotations

from mpispec.core.strategy import Strategy, View
from mpispec.core.tree import Node, NodeState


class SpecPipe(Strategy):
    """Layers of at most `width` nodes, at most `depth` layers beyond the root."""

    def __init__(self, width: int = 4, depth: int = 32) -> None:
        self.width = width
        self.lead = depth

    def choose(self, view: View) -> list[Node]:
        """Dispatch the root alone, else the likeliest node under a computed parent and the best of its layer."""
        root = view.tree.root
        if root.state is NodeState.PENDING:
            return [root]
        ready = sorted(view.tree.ready(), key=lambda node: (-node.path_prob, node.id))
        layer = [node for node in ready if node.pos == ready[0].pos]
        return layer[: self.width]


class PipeDec(SpecPipe):
    """The first version: the draft sits at the pipeline's first position and no layer is deeper than the pipeline.

    Depth and width are limits of the prediction tree; each layer is forwarded as soon as it exists.
    """

    def __init__(self, width: int = 4, depth: int = 16) -> None:
        super().__init__(width, depth)
