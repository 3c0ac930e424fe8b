"""Decides tokens where the logits are: on the last stage, on exits and on the draft."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

import numpy as np

from mpispec.compute.base import Floats
from mpispec.core.events import DraftToken
from mpispec.core.ids import Pos, Token
from mpispec.core.messages import Open, Row, Sampling, Score
from mpispec.grammars.walk import Walk
from mpispec.runtime.grammar_rows import GrammarRows
from mpispec.sampling import Tokens, adjusted, decide, log_probabilities, successors

_MOST_NODES = 1 << 16
"""Nodes remembered for penalties; far more than a window of paths can hold (law 7)."""
_AFTER_THE_END = 0.01
"""Confidence in a draft token where nothing may follow; a strategy that waits for the draft wants one nevertheless."""


class _Paths:
    """Tokens of a request by node, so that a row's own history can be read back through its ancestors.

    The path that was read last is kept as an array: the next one mostly goes on with it.
    """

    def __init__(self, opened: Open) -> None:
        self._nodes: dict[int, tuple[int, int]] = {}
        """node -> (parent, token)."""
        self._first = opened.cached - len(opened.recent)
        """Position of the first token that is known."""
        self._line: list[int] = list(range(self._first, opened.cached))
        """Nodes of the path that was read last; those of a text that was given are its positions."""
        self._tokens = array("i", opened.recent)

    def add(self, row: Row) -> None:
        self._nodes[row.node] = (row.parent, row.token)
        if len(self._nodes) > _MOST_NODES:
            del self._nodes[next(iter(self._nodes))]

    def to(self, row: Row) -> Tokens:
        """Return the tokens of the path that ends with `row`, oldest first, as far back as they are known."""
        node, pos = int(row.node), int(row.pos)
        self._first = min(self._first, pos + 1)  # a level's text may be rolled back to where nothing is known
        found: list[tuple[int, int]] = []
        while pos >= self._first and not self._is_on_line(node, pos):
            if node not in self._nodes:
                self._first = pos + 1
                break
            parent, token = self._nodes[node]
            found.append((node, token))
            node, pos = parent, pos - 1
        kept = pos + 1 - self._first
        found.reverse()
        self._line[kept:] = [node for node, _ in found]
        self._tokens[kept:] = array("i", [token for _, token in found])
        return np.array(self._tokens, np.int32)

    def _is_on_line(self, node: int, pos: int) -> bool:
        index = pos - self._first
        return index < len(self._line) and self._line[index] == node


class Decider:
    """Knows how each open request's tokens are decided."""

    def __init__(self, walk: Callable[[str], Walk] | None = None) -> None:
        """`walk` compiles a grammar; without it no request may have one."""
        self._walk = walk
        self._sampling: dict[int, Sampling] = {}
        self._paths: dict[int, _Paths] = {}
        self._grammars: dict[int, GrammarRows] = {}
        self._given: dict[int, tuple[Token, ...]] = {}
        """Prompts whose tokens are scored."""

    def open(self, opened: Open) -> None:
        """Begin a request."""
        self._sampling[opened.request] = opened.sampling
        if opened.sampling.looks_back:
            self._paths[opened.request] = _Paths(opened)
        if grammar := opened.sampling.grammar:
            assert self._walk is not None, "nothing here compiles grammars"
            self._grammars[opened.request] = GrammarRows(opened, self._walk(grammar))
        if opened.given:
            self._given[opened.request] = opened.given

    def close(self, request: int) -> None:
        """Forget a request."""
        self._sampling.pop(request, None)
        self._paths.pop(request, None)
        self._grammars.pop(request, None)
        self._given.pop(request, None)

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

    def scores(self, rows: Sequence[Row], logits: Floats, tokens: Sequence[Token]) -> tuple[Score | None, ...]:
        """Return what the model gave the tokens that `decide` returned; nothing where no request of a row asks."""
        deciding = [row for row in rows if row.decide]
        counts = [self._sampling[row.request].top_logprobs for row in deciding]
        if max(counts, default=-1) < 0:
            return ()
        found = zip(deciding, counts, logits, tokens, strict=True)
        return tuple(_score(row, count, line, token) for row, count, line, token in found)

    def _one(self, row: Row, logits: Floats) -> int:
        given = self._given.get(row.request, ())
        if row.pos + 1 < len(given):
            return given[row.pos + 1]
        logits, _ = self._masked(row, logits)
        return decide(self._adjusted(row, logits), self._sampling[row.request], row.pos + 1)

    def _several(self, row: Row, logits: Floats, count: int) -> tuple[DraftToken, ...]:
        trust = 1.0
        if row.request in self._grammars:
            logits, may_go_on = self._masked(row, logits)
            count = min(count, int(np.count_nonzero(logits > -np.inf)))
            trust = 1.0 if may_go_on else _AFTER_THE_END
        found = successors(self._adjusted(row, logits), self._sampling[row.request], row.pos + 1, count)
        return tuple((Token(token), prob * trust) for token, prob in found)

    def _masked(self, row: Row, logits: Floats) -> tuple[Floats, bool]:
        """Return the logits of the tokens that a grammar allows, -inf for others, and whether it allows any."""
        rows = self._grammars.get(row.request)
        return (logits, True) if rows is None else rows.masked(row, logits)

    def _adjusted(self, row: Row, logits: Floats) -> Floats:
        """Return the logits that decide the token after a row, those of the model where its request leaves them so."""
        sampling = self._sampling[row.request]
        if not sampling.adjusts:
            return logits
        paths = self._paths.get(row.request)
        before = (paths.to(row),) if paths is not None else ()
        return adjusted(logits, sampling, row.pos + 1, *before)


def _score(row: Row, count: int, logits: Floats, token: Token) -> Score | None:
    if count < 0:
        return None
    logprob, top = log_probabilities(logits, token, count)
    return Score(Pos(row.pos + 1), token, logprob, tuple((Token(other), other_log) for other, other_log in top))
