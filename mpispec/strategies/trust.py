"""Whether a draft that takes a stage's time is worth it: how often it is right, and what finding out may cost."""

from __future__ import annotations

import math

_COUNT = 200
"""Verdicts that a hit rate is the mean of."""
_FIRST = 4
"""Verdicts until a promise is the mean of those heard: a draft is sure of one token and not of the next."""
_SUREST = 0.95
"""No promise that is made more of becomes more than that."""


class HitRate:
    """How often the likeliest guess for a position is right, whatever its confidence; at first what is promised."""

    def __init__(self, weight: int, kept: float = 1.0, hoped: float = 0.0) -> None:
        """`weight`: for how many verdicts the promise counts; `kept`: how many times more than promised is right.

        `hoped`: what it is taken to be before anything has been promised.
        """
        self.rate = hoped
        self.is_promised = False
        self._weight, self._kept = weight, kept
        self._promised = 0.0
        self._tried = self._hits = 0

    def promise(self, prob: float) -> None:
        """Hear what the first guess promises."""
        if not self.is_promised:
            self.is_promised, self._promised = True, prob
            self.rate = self._prior

    def learn(self, prob: float, is_right: bool) -> None:
        """Hear the verdict on a guess."""
        self.promise(prob)
        self._tried += 1
        if self._tried <= _FIRST:
            self._promised += (prob - self._promised) / self._tried
            self._hits += is_right
            self.rate = (self._weight * self._prior + self._hits) / (self._weight + self._tried)
        else:
            self.rate += (is_right - self.rate) / min(self._weight + self._tried, _COUNT)

    @property
    def at_best(self) -> float:
        """What the rate may be with some luck: more by one standard error; all may be right before any is heard of."""
        if self._tried < _FIRST:
            return 1.0
        of = min(self._weight + self._tried, _COUNT)
        return min(1.0, self.rate + math.sqrt(self.rate * (1.0 - self.rate) / of))

    def doubt(self) -> None:
        """Let as few verdicts as at first change what is believed."""
        self._tried = min(self._tried, _FIRST)

    @property
    def _prior(self) -> float:
        return max(self._promised, min(_SUREST, self._kept * self._promised))


class Account:
    """What guesses have won or lost against plain decoding so far, in tokens of it.

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
        """Hear of tokens that became final."""
        self.left = min(self._most, self.left + num_tokens * (1.0 + self._interest))

    def took(self, time: float) -> None:
        """Hear of the time that it took to decide some, in times of a token of plain decoding."""
        self.left -= time
