"""Texts of this and of earlier requests, indexed by what their tokens followed.

SuffixDecoding (arXiv 2411.04975) counts in suffix trees, which cost Python hundreds of bytes a token. Here each place
of a text is linked to the last one before it that follows the same token, and to the last one that follows the same
two: the hash chains of LZ77 (zlib's deflate). That is constant work and 20 bytes a token whatever the longest suffix;
a look-up walks the newest places of a chain and compares backwards.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

from mpispec.drafters.rates import Rates

MOST_TOKENS = 1 << 19
"""Tokens that a store holds unless told otherwise, in 10 MiB: those of a thousand short chats."""
LONGEST = 24
"""Tokens of a suffix that are compared; longer ones are right no more often."""
_MOST_TEXTS = 4096
_MOST_MATCHES = 16
"""Looked at; four times as many predict 0.003 of all tokens more and take twice as long."""
_MOST_STEPS = 48
"""Places visited for them: those after other tokens of the same hash count."""
_BUCKETS = 1 << 17
_FACTOR = 40503
"""Spreads pairs of tokens over the buckets."""
_INDEX_BITS = 24
_INDEX = (1 << _INDEX_BITS) - 1

Match = tuple["array[int]", int, int, bool]
"""Tokens of a text, index of the one after the match, length of the match, whether the text is the asker's own."""


class StoredText:
    """The tokens of one request, as far as they are indexed."""

    __slots__ = ("chains", "number", "start", "tokens")

    def __init__(self, number: int) -> None:
        self.number = number
        self.tokens = array("i")
        self.chains = (array("q"), array("q"))
        """By index, the place before it that follows the same token, and the same two; 0: none.

        A place is the number of a text and an index in it, as one integer.
        """
        self.start = 0
        """Index of the first token that is still held."""


class SuffixStore:
    """The texts of one head; the oldest tokens make room for new ones.

    What is drafted and accepted is written once more, into a newer text. So the oldest are also the least recently
    used.
    """

    def __init__(self, most_tokens: int = MOST_TOKENS) -> None:
        self.rates = Rates()
        self._most_tokens = most_tokens
        self._texts: dict[int, StoredText] = {}
        self._next_number = 1
        self._num_tokens = 0
        self._newest = (array("q", bytes(8 * _BUCKETS)), array("q", bytes(8 * _BUCKETS)))
        """By hash of one token, and of two, the newest place after them."""

    def __len__(self) -> int:
        """Return the number of tokens held."""
        return self._num_tokens

    def texts(self) -> Iterator[array[int]]:
        """Yield the tokens of each text, the oldest text first."""
        for text in self._texts.values():
            yield text.tokens[text.start :]

    def new_text(self) -> StoredText:
        """Return an empty text, to be extended."""
        text = StoredText(self._next_number)
        self._next_number += 1
        return text

    def extend(self, text: StoredText, tokens: Sequence[int]) -> None:
        """Index `tokens` at the end of a text, in about 0.4 us each."""
        known = text.tokens
        place = text.number << _INDEX_BITS | len(known)
        before, last = (-1, -1, *known[-2:])[-2:]
        after_one, after_two = text.chains
        newest_one, newest_two = self._newest
        for token in tokens:
            bucket = last % _BUCKETS
            after_one.append(newest_one[bucket])
            newest_one[bucket] = place
            bucket = (before * _FACTOR + last) % _BUCKETS
            after_two.append(newest_two[bucket])
            newest_two[bucket] = place
            place += 1
            before, last = last, token
        known.extend(tokens)
        self._texts[text.number] = text
        self._num_tokens += len(tokens)
        while self._num_tokens > self._most_tokens or len(self._texts) > _MOST_TEXTS:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        """Drop what there is too much of the oldest text, or all of it where there are too many texts.

        A text that is dropped and extended again is a new one to the store.
        """
        text = next(iter(self._texts.values()))
        count = len(text.tokens) - text.start
        if len(self._texts) <= _MOST_TEXTS:
            count = min(count, self._num_tokens - self._most_tokens)
        text.start += count
        self._num_tokens -= count
        if text.start == len(text.tokens):
            del self._texts[text.number]

    def matches(self, tail: Sequence[int], own: StoredText) -> list[Match]:
        """Return where the longest suffixes of `tail` stood before, newest first: two tokens at least, else one."""
        if len(tail) > 1:
            bucket = (tail[-2] * _FACTOR + tail[-1]) % _BUCKETS
            if found := self._walk(self._newest[1][bucket], 2, tail[::-1], own):
                return found
        return self._walk(self._newest[0][tail[-1] % _BUCKETS], 1, tail[-1:], own)

    def _walk(self, place: int, least: int, suffix: Sequence[int], own: StoredText) -> list[Match]:
        """Return the matches of at least `least` tokens on a chain of so many; `suffix` begins with its last token."""
        found: list[Match] = []
        texts = self._texts
        for _ in range(_MOST_STEPS):
            text = texts.get(place >> _INDEX_BITS)
            if text is None:
                break
            index = place & _INDEX
            tokens, held = text.tokens, index - text.start
            length = 0
            for token in suffix:
                if length >= held or tokens[index - 1 - length] != token:
                    break
                length += 1
            if length >= least:
                found.append((tokens, index, length, text is own))
                if len(found) == _MOST_MATCHES:
                    break
            place = text.chains[least - 1][index]
        return found
