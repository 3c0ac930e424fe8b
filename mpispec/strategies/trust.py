"""Whether a draft that takes a stage's time is worth it: how often it is right, and what finding out may cost."""

from __future__ import annotations

import math

_COUNT = 200
"""Verifications that an acceptance rate is the mean of."""
_FIRST = 4
"""First verifications, whose promises are averaged: a draft is sure of one token and not of the next."""
_SUREST = 0.9
"""A promise that is scaled up becomes no more than this: with 0.95 the first chains were too long."""


class AcceptanceRate:
    """How often a position's likeliest draft token is right, whatever its confidence; at first what is promised."""

    def __init__(self, weight: int, kept: float = 1.0, hoped: float = 0.0, most: int = _COUNT) -> None:
        """`weight`: for how many verifications the promise counts; `kept`: how many times more than promised is right.

        `hoped`: the rate assumed before anything has been promised; `most`: of how many verifications it is the mean.
        """
        self.rate = hoped
        self.is_promised = False
        self._weight, self._kept, self._most = weight, kept, most
        self._promised = 0.0
        self._tried = self._right = 0

    def promise(self, prob: float) -> None:
        """Note what the first draft token promises."""
        if not self.is_promised:
            self.is_promised, self._promised = True, prob
            self.rate = self._prior

    def learn(self, prob: float, is_right: bool) -> None:
        """Learn from the verification of a draft token."""
        self.promise(prob)
        self._tried += 1
        if self._tried <= _FIRST:
            self._promised += (prob - self._promised) / self._tried
            self._right += is_right
            self.rate = (self._weight * self._prior + self._right) / (self._weight + self._tried)
        else:
            self.rate += (is_right - self.rate) / min(self._weight + self._tried, self._most)

    @property
    def at_best(self) -> float:
        """What the rate may be with some luck: more by one standard error; 1 before the first few verifications."""
        if self._tried < _FIRST:
            return 1.0
        count = min(self._weight + self._tried, self._most)
        return min(1.0, self.rate + math.sqrt(self.rate * (1.0 - self.rate) / count))

    def doubt(self) -> None:
        """Let as few verifications as at first change what is believed."""
        self._tried = min(self._tried, _FIRST)

    @property
    def _prior(self) -> float:
        return max(self._promised, min(_SUREST, self._kept * self._promised))


class Account:
    """What draft tokens have won or lost against plain decoding so far, in tokens of it.

    It opens with what trying may cost and never holds more: gains make losses good, but are not staked again.
    """

    def __init__(self, most: float, interest: float) -> None:
        """`most` is there at first and never exceeded; `interest` comes with each token."""
        self._most, self._interest = most, interest
        self.left = most

    @property
    def debt(self) -> float:
        """What was lost beyond what trying may cost."""
        return max(0.0, -self.left)

    def wrote(self, num_tokens: int) -> None:
        """Note tokens that became final."""
        self.left = min(self._most, self.left + num_tokens * (1.0 + self._interest))

    def took(self, time: float) -> None:
        """Note the time that it took to decide some, in times of a token of plain decoding."""
        self.left -= time
