"""Prompt lookup: what followed the last time these tokens stood here (Saxena 2023; llama.cpp's ngram types)."""

from __future__ import annotations

from collections.abc import Sequence


class NGram:
    """Remembers what last followed each n-gram of the accepted tokens, and how often each length was right."""

    def __init__(self, longest: int = 5, shortest: int = 2) -> None:
        self._longest = longest
        self._shortest = shortest
        self._tokens: Sequence[int] = ()
        self._followers: dict[tuple[int, ...], int] = {}
        """n-gram -> index of the token that followed its latest occurrence."""
        self._indexed = 0
        self._tries: list[int] = []
        self._right: list[int] = []
        """By length: accepted tokens for which an n-gram had a prediction, and those it predicted right."""

    def begin(self, tokens: Sequence[int]) -> None:
        """Index the prompt."""
        self._tokens = tokens
        self._followers = {}
        self._indexed = 0
        self._tries = [2] * (self._longest + 1)
        self._right = [1] * (self._longest + 1)
        self.observe()

    def observe(self) -> None:
        """Index the tokens accepted since the last call, and count how often each length predicts them."""
        tokens = self._tokens
        for end in range(max(self._indexed, self._shortest), len(tokens)):
            for length in range(self._shortest, min(self._longest, end) + 1):
                key = tuple(tokens[end - length : end])
                follower = self._followers.get(key)
                if follower is not None:
                    self._tries[length] += 1
                    self._right[length] += tokens[follower] == tokens[end]
                self._followers[key] = end
        self._indexed = len(tokens)

    def predict(self, path: Sequence[int]) -> tuple[int, float] | None:
        """Follow the longest n-gram that ends here; its probability is how often its length was right so far."""
        known = self._tokens[max(0, len(self._tokens) - self._longest) :]
        tail = (*known, *path)[-self._longest :]
        for length in range(len(tail), self._shortest - 1, -1):
            follower = self._followers.get(tail[len(tail) - length :])
            if follower is not None:
                return self._tokens[follower], self._right[length] / self._tries[length]
        return None
