"""Where the rows of one request stand in its grammar."""

from __future__ import annotations

import numpy as np

from mpispec.compute.base import Floats
from mpispec.core.messages import Open, Row
from mpispec.grammars.walk import Walk

_MOST_NODES = 1 << 16
"""Nodes remembered, far more than a window of paths can hold; older ones are part of the walk (law 7)."""


class GrammarRows:
    """Leads a walk along the paths of a token tree, from one deciding row to the next."""

    def __init__(self, opened: Open, walk: Walk) -> None:
        self._walk = walk
        self._start = opened.sampling.begins
        self._cached = opened.cached
        self._given = opened.recent[max(0, len(opened.recent) - max(0, opened.cached - self._start)) :]
        """The part of the answer that had cells when the request was opened."""
        self._nodes: dict[int, tuple[int, int]] = {}
        """Parent and token of each row."""
        self._keys: list[int] = []
        """What the tokens of the walk are: nodes, or -1 - position of a given token."""

    def add(self, row: Row) -> None:
        """Remember a row, be it computed or not."""
        if row.pos >= self._start:
            self._nodes[row.node] = (row.parent, row.token)
            if len(self._nodes) > _MOST_NODES:
                del self._nodes[next(iter(self._nodes))]

    def masked(self, row: Row, logits: Floats) -> tuple[Floats, bool]:
        """Return the logits of the tokens that may come after a row, -inf for the others, and whether there were any.

        If there were none, because a token before is not legal or the grammar is too complex from here on, the answer
        is to end: the row cannot be verified, or nothing better could follow.
        """
        masked = np.full_like(logits, -np.inf)
        mask = self._walk.allowed() if self._go_to(row) else None
        if mask is not None:
            legal = np.flatnonzero(mask[: logits.size])
            masked[legal] = logits[legal]
            if legal.size:
                return masked, True
        masked[min((token for token in self._walk.eog if token < logits.size), default=0)] = 0.0
        return masked, False

    def _go_to(self, row: Row) -> bool:
        """Lead the walk to the end of a row's path; return whether all of it is legal."""
        keys, tokens = [], []
        node, pos = int(row.node), int(row.pos)
        while pos >= self._start:
            known = self._nodes.get(node)
            if known is not None:
                key, (parent, token) = node, known
            elif pos < self._cached:
                key, parent, token = -1 - pos, -1, self._given[pos - self._start]
            else:
                return False
            index = pos - self._start
            if index < len(self._keys) and self._keys[index] == key:
                break
            keys.append(key)
            tokens.append(token)
            node, pos = parent, pos - 1
        common = max(0, pos - self._start + 1)
        is_legal = self._walk.go(common, tokens[::-1])
        self._keys = (self._keys[:common] + keys[::-1])[: len(self._walk.tokens)]
        return is_legal
