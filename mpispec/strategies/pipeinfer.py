"""PipeInfer (SC'24, arXiv 2407.11798): never wait for a verification.

Its four mechanisms and where they live here: asynchronous speculation on a draft rank (`core/draft.py`); continuous
speculation in micro-batches with a reactive cutoff (this file); early cancellation before and inside compute
(`core/head.py`, `core/stage.py`, the backends' `cancelled`); cache multibuffering by sequence ids
(`core/sequences.py`).
"""

from __future__ import annotations

from mpispec.core.strategy import Strategy, View
from mpispec.core.tree import Node, NodeState


class PipeInfer(Strategy):
    """The newest token at once as a run of its own, then micro-batches while confidence stays above the cutoff.

    The cutoff, that of PipeInfer's `speculative.cpp`, is p_accept + p_recovery x speculative runs since the last
    acceptance - p_decay x refusals since then: further runs without confirmation get harder to start, and the longer
    nothing could be dispatched the easier. Both reset on an acceptance.
    """

    def __init__(
        self,
        lead: int = 32,
        micro_batch: int = 1,
        p_accept: float = 0.25,
        p_recovery: float = 0.0,
        p_decay: float = 0.0,
    ) -> None:
        self.lead = lead
        self._micro_batch = micro_batch
        self._p_accept = p_accept
        self._p_recovery = p_recovery
        self._p_decay = p_decay
        self._speculated = 0
        self._refused = 0

    @property
    def cutoff(self) -> float:
        """The least probability that a draft token must have to be dispatched now."""
        return self._p_accept + self._speculated * self._p_recovery - self._refused * self._p_decay

    def choose(self, view: View) -> list[Node]:
        """Dispatch the root alone, else the next draft tokens of the most probable path."""
        root = view.tree.root
        if root.state is NodeState.PENDING:
            return [root]
        node = root
        while node.state is not NodeState.PENDING:
            if not node.children:
                return []
            node = node.favourite()
        batch: list[Node] = []
        while node.prob >= self.cutoff:
            batch.append(node)
            if len(batch) == self._micro_batch or not node.children:
                break
            node = node.favourite()
        if batch:
            self._speculated += 1
        else:
            self._refused += 1
        return batch

    def accepted(self, count: int) -> None:
        """Confidence is restored."""
        self._speculated = self._refused = 0
