"""SPEED (arXiv 2310.12072): the target's own shallow stages draft what its deep stages will decide.

What the paper has and where it lives here: the exit head on a stage (`compute/llama_stage.py`, `torch_weights.py`);
draft tokens that start their own pass while the current one is still deeper in (this file); deeper exits that drop what
was built on a draft token they do not share (`core/request.py`); weights that cycles share and one pass reads once for
all of them (`runtime/worker.py: CycleWorker`).
"""

from __future__ import annotations

from mpispec.core.strategy import Strategy, View
from mpispec.core.tree import Node, NodeState


class Speed(Strategy):
    """Each token alone and at once, accepted or drafted: a draft token fills stages that would idle."""

    def __init__(self, lead: int = 32, p_accept: float = 0.0) -> None:
        self.lead = lead
        self._p_accept = p_accept

    def choose(self, view: View) -> list[Node]:
        """Dispatch the end of the most probable path as soon as it is known."""
        node = view.tree.root
        while node.state is not NodeState.PENDING:
            if not node.children:
                return []
            node = node.favourite()
        return [node] if node.prob >= self._p_accept else []
