"""Grammars compiled for one vocabulary, the latest of them kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from llguidance import LLMatcher, LLTokenizer

from mpispec.grammars.library import GrammarError, Pieces, compiled, first_error, tokenizer_of
from mpispec.grammars.walk import Walk

_MOST_KEPT = 32
"""Compiled grammars (law 7); of hostile ones each may take 50 MB."""


class Compiler:
    """Makes walks; any thread may use it. The vocabulary is read when the first grammar comes."""

    def __init__(self, open_pieces: Callable[[], Pieces]) -> None:
        self._open_pieces = open_pieces
        self._lock = threading.Lock()
        self._tokenizer: LLTokenizer | None = None
        self._eog: frozenset[int] = frozenset()
        self._kept: OrderedDict[str, LLMatcher] = OrderedDict()

    def check(self, text: str) -> None:
        """Raise GrammarError unless a grammar can be compiled and something matches it."""
        matcher = self._compiled(text)
        walk = Walk(matcher, self._eog)
        if error := first_error(matcher):
            raise GrammarError(error)
        if walk.allowed() is None:
            raise GrammarError("nothing matches it")

    def walk(self, text: str) -> Walk:
        """Return a grammar at its beginning; one that cannot be compiled allows nothing."""
        return Walk(self._compiled(text), self._eog)

    def soon(self, text: str) -> Callable[[], Walk | None]:
        """Have a grammar compiled on another thread; return what says None until that is done, then always the walk."""
        done: list[Walk] = []
        threading.Thread(target=lambda: done.append(self.walk(text)), name="grammar", daemon=True).start()
        return lambda: done[0] if done else None

    def _compiled(self, text: str) -> LLMatcher:
        with self._lock:
            matcher = self._kept.pop(text, None)
            if matcher is None:
                matcher = compiled(self._loaded(), text)
            self._kept[text] = matcher
            if len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
            return matcher

    def _loaded(self) -> LLTokenizer:
        if self._tokenizer is None:
            pieces = self._open_pieces()
            self._tokenizer, self._eog = tokenizer_of(pieces), pieces.eog
        return self._tokenizer
