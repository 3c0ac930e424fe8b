"""Predicts that the text goes on as it did after its longest suffixes before (SuffixDecoding, arXiv 2411.04975)."""

from __future__ import annotations

from collections.abc import Sequence

from mpispec.drafters.suffix_store import LONGEST, Match, SuffixStore

_PIECE = 512
"""Tokens indexed at once, in about 0.2 ms: a long prompt must not keep the head from its runs."""
_VOTES = tuple(tuple(4.0 ** (length + is_own) for length in range(LONGEST + 1)) for is_own in (0, 1))
"""Of a match, by whether it is in the request's own text, and by its length: own text predicts as well as a longer
match elsewhere. Factors of 3 and 8 predict as much, within a thousandth of all tokens."""


class Suffix:
    """A `Predictor` over the texts of all requests of its head.

    A prompt is indexed from its beginning on, a piece with each of its runs and each accepted token. By the time that
    the answer begins, 131,072 tokens are done after 128 runs of the 2,048 that compute them; earlier turns of a chat
    have been indexed before. So the order does not matter, and this one needs a single mark.
    """

    def __init__(self, store: SuffixStore) -> None:
        self._store = store
        self._text = store.new_text()
        self._tokens: Sequence[int] = ()
        self._num_learned = 0
        """Tokens that were given, or from which was learned."""
        self._here: list[Match] | None = None
        """The matches of the accepted tokens, once they have been looked up."""
        self._path: list[int] = []
        self._below: list[Match] = []
        """The path that was looked at last and its matches."""

    def begin(self, tokens: Sequence[int]) -> None:
        """See `Predictor`."""
        self._tokens = tokens
        self._num_learned = len(tokens)
        self.observe()

    def observe(self) -> None:
        """See `Predictor`."""
        tokens, text = self._tokens, self._text
        for pos in range(self._num_learned, len(tokens)):
            self._learn(pos)
        num_indexed = len(text.tokens)
        if num_indexed < len(tokens):
            self._store.extend(text, tokens[num_indexed : num_indexed + _PIECE])

    def predict(self, path: Sequence[int], width: int) -> list[tuple[int, float]]:
        """See `Predictor`: each token has the share of its matches' votes, times how often such votes were right."""
        matches = self._matches(path)
        if not matches:
            return []
        longest, votes = _count(matches)
        of_a_vote = self._store.rates[longest] / sum(votes.values())
        if width == 1 or len(votes) == 1:
            best = max(votes, key=votes.__getitem__)
            return [(best, votes[best] * of_a_vote)]
        ranked = sorted(votes, key=votes.__getitem__, reverse=True)[:width]
        return [(token, votes[token] * of_a_vote) for token in ranked]

    def _learn(self, pos: int) -> None:
        """Learn from the accepted token at `pos` how good such predictions are."""
        if self._here is None:
            self._here = self._store.matches(self._tokens[max(0, pos - LONGEST) : pos], self._text)
        token = self._tokens[pos]
        if self._here:
            longest, votes = _count(self._here)
            best = max(votes, key=votes.__getitem__)
            self._store.rates.learn(longest, votes[best] / sum(votes.values()), best == token)
        self._here = None
        self._num_learned = pos + 1
        if self._path[:1] == [token]:
            del self._path[0]
        else:
            self._path, self._below = [], []

    def _matches(self, path: Sequence[int]) -> list[Match]:
        """Return the matches of the accepted tokens and `path`.

        Those of a path that is one token longer than the last one are found among the last one's.
        """
        if not path:
            if self._here is None:
                self._here = self._store.matches(self._tokens[-LONGEST:], self._text)
            matches = self._here
        else:
            matches = _followed(self._below, path[-1]) if self._path == path[:-1] else []
            if not matches:
                tail = [*self._tokens[-LONGEST:], *path]
                matches = self._store.matches(tail[-LONGEST:], self._text)
        self._path, self._below = [*path], matches
        return matches


def _count(matches: Sequence[Match]) -> tuple[int, dict[int, float]]:
    """Return the length of the longest match, and the votes of each token that followed one."""
    votes: dict[int, float] = {}
    longest = 0
    for tokens, index, length, is_own in matches:
        token = tokens[index]
        votes[token] = votes.get(token, 0.0) + _VOTES[is_own][length]
        longest = max(longest, length)
    return longest, votes


def _followed(matches: Sequence[Match], token: int) -> list[Match]:
    """Return those matches that go on with `token`, one token longer."""
    return [
        (tokens, index + 1, min(length + 1, LONGEST), is_own)
        for tokens, index, length, is_own in matches
        if tokens[index] == token and index + 1 < len(tokens)
    ]
