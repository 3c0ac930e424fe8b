"""Decides tokens where the logits are: on the last stage, on exits and on the draft."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mpispec.compute.base import Floats
from mpispec.core.events import DraftToken
from mpispec.core.ids import Token
from mpispec.core.messages import Open, Row, Sampling
from mpispec.grammars.walk import Walk
from mpispec.runtime.grammar_rows import GrammarRows
from mpispec.sampling import decide, successors

_MOST_NODES = 1 << 16
"""Nodes remembered for the repeat penalty; far more than a window of paths can hold (law 7)."""
_AFTER_THE_END = 0.01
"""Confidence in a draft token where nothing may follow; a strategy that waits for the draft wants one nevertheless."""


class _Paths:
    """Tokens by node, so that a row's own history can be read back through its ancestors."""

    def __init__(self, opened: Open) -> None:
        self._nodes: dict[int, tuple[int, int]] = {}
        first = opened.cached - len(opened.recent)
        for offset, token in enumerate(opened.recent):
            self._nodes[first + offset] = (first + offset - 1, token)

    def add(self, row: Row) -> None:
        self._nodes[row.node] = (row.parent, row.token)
        if len(self._nodes) > _MOST_NODES:
            del self._nodes[next(iter(self._nodes))]

    def recent(self, node: int, count: int) -> list[int]:
        """Return up to `count` tokens of the path that ends at `node`, newest first."""
        tokens: list[int] = []
        while len(tokens) < count and node in self._nodes:
            node, token = self._nodes[node]
            tokens.append(token)
        return tokens


class Decider:
    """Knows how each open request's tokens are decided."""

    def __init__(self, walk: Callable[[str], Walk] | None = None) -> None:
        """`walk` compiles a grammar; without it no request may have one."""
        self._walk = walk
        self._sampling: dict[int, Sampling] = {}
        self._paths: dict[int, _Paths] = {}
        self._grammars: dict[int, GrammarRows] = {}

    def open(self, opened: Open) -> None:
        """Begin a request."""
        self._sampling[opened.request] = opened.sampling
        if opened.sampling.repeat_penalty != 1.0:
            self._paths[opened.request] = _Paths(opened)
        if (grammar := opened.sampling.grammar) is not None:
            assert self._walk is not None, "nothing here compiles grammars"
            self._grammars[opened.request] = GrammarRows(opened, grammar, self._walk(grammar.text))

    def close(self, request: int) -> None:
        """Forget a request."""
        self._sampling.pop(request, None)
        self._paths.pop(request, None)
        self._grammars.pop(request, None)

    def note(self, rows: Sequence[Row]) -> None:
        """Remember the tokens of rows, where a penalty or a grammar will need them."""
        if self._paths or self._grammars:
            for row in rows:
                if (paths := self._paths.get(row.request)) is not None:
                    paths.add(row)
                if (grammar := self._grammars.get(row.request)) is not None:
                    grammar.add(row)

    def decide(self, rows: Sequence[Row], logits: Floats) -> tuple[Token, ...]:
        """Return the token after each deciding row; `logits` is float32 [deciding rows, vocabulary]."""
        deciding = (row for row in rows if row.decide)
        return tuple(Token(self._one(row, line)) for row, line in zip(deciding, logits, strict=True))

    def successors(self, rows: Sequence[Row], logits: Floats, count: int) -> tuple[tuple[DraftToken, ...], ...]:
        """Return the `count` likeliest tokens after each deciding row, best first."""
        deciding = (row for row in rows if row.decide)
        return tuple(self._several(row, line, count) for row, line in zip(deciding, logits, strict=True))

    def _one(self, row: Row, logits: Floats) -> int:
        logits, _ = self._masked(row, logits)
        return decide(logits, self._sampling[row.request], row.pos + 1, self._recent(row))

    def _several(self, row: Row, logits: Floats, count: int) -> tuple[DraftToken, ...]:
        trust = 1.0
        if row.request in self._grammars:
            logits, may_go_on = self._masked(row, logits)
            count = min(count, int(np.count_nonzero(logits > -np.inf)))
            trust = 1.0 if may_go_on else _AFTER_THE_END
        found = successors(logits, self._sampling[row.request], row.pos + 1, count, self._recent(row))
        return tuple((Token(token), prob * trust) for token, prob in found)

    def _masked(self, row: Row, logits: Floats) -> tuple[Floats, bool]:
        """Return the logits of the tokens that a grammar allows, -inf for others, and whether it allows any."""
        rows = self._grammars.get(row.request)
        return (logits, True) if rows is None else rows.masked(row, logits)

    def _recent(self, row: Row) -> list[int]:
        paths = self._paths.get(row.request)
        return paths.recent(row.node, self._sampling[row.request].repeat_last_n) if paths is not None else []
