"""PipeSpec (ACL Findings 2025, arXiv 2505.01572): verify at once whatever the level below holds beyond our end.

The rule of every level of a cascade, the target's included; rollback is in `core/level.py`. Differences to the paper:
how far a level may run ahead is bounded; and a pass takes as many draft tokens as pay, because with t(rows) far from
flat a few of them cost more than they bring (several rows cost 3.5 times one on 4-bit kernels, by the authors' own
HumanEval files, github.com/BradMcDanel/pipespec).
"""

from __future__ import annotations

from mpispec.core.strategy import Strategy, View
from mpispec.core.tree import Node, NodeState


class PipeSpec(Strategy):
    """A run whenever the first stage is likely to be free: the root, and the draft tokens that pay."""

    def __init__(self, lookahead: int = 48, most_rows: int = 32) -> None:
        """`lookahead` bounds how far the level below runs ahead of us, in tokens."""
        self.lead = lookahead
        self._most_rows = most_rows

    def choose(self, view: View) -> list[Node]:
        """Dispatch the next part of the most probable path, beginning with the root."""
        if view.live_runs >= view.config.num_stages:
            return []
        node = view.tree.root
        path: list[Node] = []
        while len(path) < self._most_rows:
            if node.state is NodeState.PENDING:
                path.append(node)
            if not node.children:
                break
            node = node.favourite()
        return self._paying(path, view)

    @staticmethod
    def _paying(path: list[Node], view: View) -> list[Node]:
        """Return the beginning of `path` that brings the most tokens in the time of its run."""
        best, best_rate, tokens = 0, 0.0, 0.0
        certain = view.tree.root.path_prob
        for rows, node in enumerate(path, 1):
            tokens += node.path_prob / certain
            rate = tokens / view.cost(rows)
            if rate >= best_rate:
                best, best_rate = rows, rate
        return path[:best]
