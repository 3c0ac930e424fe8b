"""How far a drafter's confidence can be believed: learned from verifications, by bucket of confidence and by depth.

The chance of a draft token is a product of three estimates, so that each has enough evidence: how often draft tokens of
about this confidence were right; how well all of the drafter's promises were kept lately; and how much better or worse
than that draft tokens do so far beyond the accepted text.
"""

from __future__ import annotations

_BUCKETS = 10
_PRIOR_TRIES = 4.0
_FORGET = 0.995
"""What is left of old evidence after one more try: texts change, so the last few hundred tries count."""

_LATELY = 0.97
_PRIOR_RIGHT = 1.0
"""Kept promises that a drafter begins with: the fewer, the sooner one that is never right is disbelieved."""

_BAND_OF = (0, 0, 1, 1, *[2] * 4, *[3] * 8, 4)
"""Bands of depth: 1, 2 and 3, 4 to 7, 8 to 15, 16 and more."""
_DEEPEST = len(_BAND_OF) - 1
_BAND_PRIOR_RIGHT = 32.0
"""Depth matters little for most drafters, and noise would cost more than it: it takes many accepted draft tokens."""
_BAND_FORGET = 0.99


class Calibration:
    """Maps a confidence to a chance; starts by believing it and ends by believing what happened.

    A drafter that breaks its promises is believed less at every confidence before each bucket has been learned.
    """

    def __init__(self) -> None:
        self._rates = [(index + 0.5) / _BUCKETS for index in range(_BUCKETS)]
        """By bucket, how often its draft tokens were right."""
        self._tries = [_PRIOR_TRIES] * _BUCKETS
        self._expected = self._met = _PRIOR_RIGHT
        """What was promised lately, all buckets together, and what was kept."""
        self._band_expected = [_BAND_PRIOR_RIGHT] * (_BAND_OF[-1] + 1)
        self._band_met = [_BAND_PRIOR_RIGHT] * (_BAND_OF[-1] + 1)
        """By band, what bucket and lately promised together, and what was kept."""
        self._factors = [1.0] * (_BAND_OF[-1] + 1)
        """By band, what a bucket's rate is multiplied by; empty where something was learned since."""

    def rate(self, confidence: float) -> float:
        """Return how often draft tokens of about this confidence were right, whatever happened lately."""
        bucket = int(confidence * _BUCKETS)
        return self._rates[bucket if bucket < _BUCKETS else -1]

    def chance(self, confidence: float, depth: int = 1) -> float:
        """Return how often draft tokens of about this confidence, this many positions ahead, were right."""
        factors = self._factors or self._renewed()
        return self.rate(confidence) * factors[_BAND_OF[depth] if depth < _DEEPEST else -1]

    def learn(self, confidence: float, is_right: bool, depth: int = 1, share: float = 1.0) -> None:
        """Learn from the verification of a draft token, one of 1 / `share` for the same position.

        What was promised lately is remembered for a number of positions, not of draft tokens: else a draft token's
        unlikely siblings would make its promises forgotten.
        """
        bucket = min(_BUCKETS - 1, int(confidence * _BUCKETS))
        band = _BAND_OF[min(depth, _DEEPEST)]
        rate = self._rates[bucket]
        promised = rate * min(1.0, self._met / self._expected)
        # The sums fade, older evidence counting a little less; the prior in them stays.
        expected, met = self._band_expected[band] - _BAND_PRIOR_RIGHT, self._band_met[band] - _BAND_PRIOR_RIGHT
        self._band_expected[band] = expected * _BAND_FORGET + promised + _BAND_PRIOR_RIGHT
        self._band_met[band] = met * _BAND_FORGET + is_right + _BAND_PRIOR_RIGHT
        memory = _LATELY**share
        self._expected = (self._expected - _PRIOR_RIGHT) * memory + rate + _PRIOR_RIGHT
        self._met = (self._met - _PRIOR_RIGHT) * memory + is_right + _PRIOR_RIGHT
        tries = self._tries[bucket]
        self._tries[bucket] = tries * _FORGET + 1.0
        self._rates[bucket] = (rate * tries * _FORGET + is_right) / self._tries[bucket]
        self._factors = []

    def _renewed(self) -> list[float]:
        lately = min(1.0, self._met / self._expected)
        self._factors = [
            lately * min(1.0, met / expected) for met, expected in zip(self._band_met, self._band_expected, strict=True)
        ]
        return self._factors
