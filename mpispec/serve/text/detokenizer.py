"""Token ids to text as they come: cut before a stop string, or where an answer only repeats itself. Pure."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from itertools import takewhile

from mpispec.serve.text.vocabulary import Vocabulary


def find_stop(text: str, stops: Sequence[str], beyond: int = 0) -> tuple[int, str] | None:
    """Return the start of the stop string that is complete first, and the string; None if there is none.

    Those that end within the first `beyond` characters do not count. Of several that end at the same place the longest
    does. So the answer depends on the text alone, not on the portions it came in.
    """
    places = ((text.find(stop, max(0, beyond + 1 - len(stop))), stop) for stop in stops)
    found = [(start + len(stop), start, stop) for start, stop in places if start >= 0]
    if not found:
        return None
    _, start, stop = min(found)
    return start, stop


def count_undecided(text: str, stops: Sequence[str]) -> int:
    """Return the length of the longest end of `text` that is a proper beginning of a stop string."""
    longest = 0
    for stop in stops:
        start = text.find(stop[0], max(0, len(text) - len(stop) + 1))
        while start >= 0:
            if stop.startswith(text[start:]):
                longest = max(longest, len(text) - start)
                break
            start = text.find(stop[0], start + 1)
    return longest


class TextStream:
    """Turns tokens into text, holding back incomplete characters and what may become a stop string.

    The texts of all `push` calls and of `flush` together are the decoded bytes of all tokens, up to the first stop
    string. Bytes that are no UTF-8 become U+FFFD. Tokens of `vocabulary.eog` give no text, control tokens only those
    that are to be shown. A stop string does not count that is complete within the first `min_tokens`, as in vLLM.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        stops: Sequence[str] = (),
        shown: frozenset[int] = frozenset(),
        min_tokens: int = 0,
    ) -> None:
        if "" in stops:
            raise ValueError("A stop string must not be empty.")
        self.stop_found: str | None = None
        """The stop string that was found; there is no text after it."""
        self._vocabulary = vocabulary
        self._stops = tuple(stops)
        self._shown = shown
        self._begun = b""
        """Of a character that is not complete."""
        self._held = ""
        self._num_free = min_tokens
        """How many further tokens may complete a stop string."""
        self._free = 0
        """Characters held back that come from such tokens."""

    def push(self, token: int) -> str:
        """Take the next token; return the text that is certain now, often none."""
        if self.stop_found is not None or token in self._vocabulary.eog:
            return ""
        text = self._decoded(self._vocabulary.piece(token, token in self._shown))
        if self._num_free:
            self._num_free -= 1
            self._free = len(self._held) + len(text)
        return self._release(text)

    def flush(self) -> str:
        """Return what was held back; call it after the last token."""
        if self.stop_found is not None:
            return ""
        text = self._release(self._decoded(b"", True)) + self._held
        self._held = ""
        return text

    def _decoded(self, piece: bytes, is_last: bool = False) -> str:
        data = self._begun + piece
        text, length = codecs.utf_8_decode(data, "replace", is_last)
        self._begun = data[length:]
        return text

    def _release(self, text: str) -> str:
        if not self._stops:
            return text
        text = self._held + text
        found = find_stop(text, self._stops, self._free)
        if found is not None:
            start, self.stop_found = found
            self._held = ""
            return text[:start]
        certain = len(text) - count_undecided(text, self._stops)
        self._held = text[certain:]
        self._free = max(0, self._free - certain)
        return text[:certain]


LEAST_TOKENS = 256
LEAST_REPEATS = 8
"""Both are needed: tables of zeros and refrains are shorter, or vary."""
LONGEST_BLOCK = 128
"""Tokens."""
_STRIDE = 64
"""Tokens between two looks for blocks. A loop has more than twice as many that equal the one a block before."""


class LoopWatch:
    """Takes an answer's tokens; `is_loop` once the last of them are one block again and again.

    The end of an answer of n tokens repeats a block of p tokens where each token equals the one p places before. So a
    count for each p is all there is to know. Nearly always all counts are small: a look every `_STRIDE` tokens finds
    those that may become large, and only they are kept.
    """

    def __init__(self) -> None:
        self.is_loop = False
        self._tokens: list[int] = []
        self._equal: dict[int, int] = {}
        """By block length: how many of the last tokens equal the one a block before; no fewer than `_STRIDE`."""

    def push(self, token: int) -> None:
        """Take the next token."""
        self._tokens.append(token)
        if self._equal:
            self._count(token)
        if len(self._tokens) % _STRIDE == 0:
            self._look()

    def _count(self, token: int) -> None:
        for block in list(self._equal):
            if self._tokens[-1 - block] != token:
                del self._equal[block]
                continue
            self._equal[block] += 1
            if self._equal[block] + block >= max(LEAST_TOKENS, LEAST_REPEATS * block):
                self.is_loop = True

    def _look(self) -> None:
        """Begin to count for blocks that all of the last tokens repeat."""
        tokens = self._tokens
        last = tokens[-_STRIDE:]
        for block in range(1, min(LONGEST_BLOCK, len(tokens) - _STRIDE) + 1):
            if block not in self._equal and tokens[-_STRIDE - block : -block] == last:
                same = (tokens[at] == tokens[at - block] for at in range(len(tokens) - 1, block - 1, -1))
                self._equal[block] = sum(takewhile(bool, same))
