"""Grammars compiled for one vocabulary, the latest of them kept."""

from __future__ import annotations

import random
import threading
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
from llguidance import LLMatcher, LLTokenizer

from mpispec.grammars.library import GrammarError, Pieces, compiled, first_error, tokenizer_of
from mpispec.grammars.walk import Walk

_MOST_KEPT = 16
"""Compiled grammars (law 7): hostile regular expressions take 5 MB each."""

_PROBES, _PROBED_TOKENS = 8, 8
"""Texts that are tried in advance, and how far: an object with too many optional properties breaks after two tokens."""


class Compiler:
    """Makes walks; any thread may use it. The vocabulary is read when the first grammar comes."""

    def __init__(self, open_pieces: Callable[[], Pieces]) -> None:
        self._open_pieces = open_pieces
        self._lock = threading.Lock()
        self._tokenizer: LLTokenizer | None = None
        self._eog: frozenset[int] = frozenset()
        self._kept: OrderedDict[str, LLMatcher] = OrderedDict()

    def check(self, text: str) -> None:
        """Raise GrammarError unless a grammar can be compiled, and something matches it that begins within the limits.

        What is only too complex later on ends an answer there.
        """
        matcher = self._compiled(text)
        if error := first_error(matcher):
            raise GrammarError(error)
        for seed in range(_PROBES):
            self._probe(Walk(matcher, self._eog), random.Random(seed))

    def _probe(self, walk: Walk, chance: random.Random) -> None:
        """Write the beginning of some text that matches. Raises GrammarError."""
        for _ in range(_PROBED_TOKENS):
            mask = walk.allowed()
            if mask is None:
                raise GrammarError(walk.error or "nothing matches it")
            token = int(chance.choice(np.flatnonzero(mask)))
            if token in self._eog:
                return
            if not walk.go(len(walk.tokens), [token]):
                raise GrammarError(walk.error)

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
