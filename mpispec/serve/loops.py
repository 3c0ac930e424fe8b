"""Noticing that an answer only repeats itself, by its accepted tokens in order: alike for every strategy. Pure."""

from __future__ import annotations

LEAST_TOKENS = 256
LEAST_REPEATS = 8
"""Both are needed: tables of zeros and refrains are shorter, or vary."""
LONGEST_BLOCK = 128
"""Tokens."""


class LoopWatch:
    """Takes an answer's tokens; `is_loop` once the last of them are one block again and again.

    The end of an answer of n tokens repeats a block of p tokens where each token equals the one p places before. So one
    count for each p is all there is to know, `LONGEST_BLOCK` comparisons for a token.
    """

    def __init__(self) -> None:
        self.is_loop = False
        self._tokens: list[int] = []
        self._equal = [0] * (LONGEST_BLOCK + 1)
        """By block length: how many of the last tokens equal the one a block before."""

    def push(self, token: int) -> None:
        """Take the next token."""
        tokens, equal = self._tokens, self._equal
        for block in range(1, min(LONGEST_BLOCK, len(tokens)) + 1):
            if tokens[-block] != token:
                equal[block] = 0
                continue
            equal[block] += 1
            if equal[block] + block >= max(LEAST_TOKENS, LEAST_REPEATS * block):
                self.is_loop = True
        tokens.append(token)
