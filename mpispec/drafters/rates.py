"""How often a predictor's matches were right."""

from __future__ import annotations


class Rates:
    """How often what most matches say was right, by the length of the longest: that of the last few hundred tries."""

    _TYPICAL = (0.0, 0.35, 0.48, 0.63, 0.68, 0.73, 0.76, 0.78, *[0.8] * 4, *[0.86] * 12, 0.93)
    """Where a head begins: rates in chats of SmolLM2-135M, and in Python and Markdown of this repository."""
    _PRIOR_TRIES = 8.0
    _FORGET = 0.995

    def __init__(self) -> None:
        self._right = [self._PRIOR_TRIES * rate for rate in self._TYPICAL]
        self._tries = [self._PRIOR_TRIES] * len(self._right)
        """By length, the sum of the shares of votes that the predicted tokens had."""

    def __getitem__(self, length: int) -> float:
        """Return the rate of a token that has all votes; another's is in proportion to its share."""
        return min(1.0, self._right[length] / self._tries[length])

    def learn(self, length: int, share: float, is_right: bool) -> None:
        """Learn from a token that had `share` of the votes."""
        self._right[length] = self._right[length] * self._FORGET + is_right
        self._tries[length] = self._tries[length] * self._FORGET + share
