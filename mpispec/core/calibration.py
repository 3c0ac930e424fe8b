"""How far a proposer's confidence can be believed: learned from verdicts, by bucket of confidence and by depth.

The chance of a guess is a product of three estimates, so that each has enough evidence: how often guesses of about this
confidence were right; how well all of the proposer's promises were kept lately; and how much better or worse guesses
that far beyond the accepted text do than that.
"""

from __future__ import annotations

_BUCKETS = 10
_PRIOR_TRIES = 4.0
_FORGET = 0.995
"""What is left of old evidence after one more try: texts change, so the last few hundred tries count."""

_LATELY = 0.97
_PRIOR_HITS = 1.0
"""Kept promises that a proposer begins with: one that is never right is disbelieved the sooner, the fewer they are."""

_BAND_OF = (0, 0, 1, 1, *[2] * 4, *[3] * 8, 4)
"""Bands of depth: 1, 2 and 3, 4 to 7, 8 to 15, 16 and more."""
_DEEPEST = len(_BAND_OF) - 1
_BAND_PRIOR_HITS = 32.0
"""Depth matters little for most proposers, and noise would cost more than it: many hits have to say so."""
_BAND_FORGET = 0.99


class Calibration:
    """Maps a confidence to a chance; starts by believing it and ends by believing what happened.

    A proposer that breaks its promises is believed less at every confidence before each bucket has been learned.
    """

    def __init__(self) -> None:
        self._rates = [(index + 0.5) / _BUCKETS for index in range(_BUCKETS)]
        """By bucket, how often its guesses were right."""
        self._tries = [_PRIOR_TRIES] * _BUCKETS
        self._expected = self._met = _PRIOR_HITS
        """What was promised lately, all buckets together, and what was kept."""
        self._band_expected = [_BAND_PRIOR_HITS] * (_BAND_OF[-1] + 1)
        self._band_met = [_BAND_PRIOR_HITS] * (_BAND_OF[-1] + 1)
        """By band, what bucket and lately promised together, and what was kept."""
        self._factors = [1.0] * (_BAND_OF[-1] + 1)
        """By band, what a bucket's rate is multiplied by; empty where something was learned since."""

    def chance(self, confidence: float, depth: int = 1) -> float:
        """Return how often guesses of about this confidence, this many positions ahead, were right."""
        bucket = int(confidence * _BUCKETS)
        rate = self._rates[bucket if bucket < _BUCKETS else -1]
        factors = self._factors or self._renewed()
        return rate * factors[_BAND_OF[depth] if depth < _DEEPEST else -1]

    def learn(self, confidence: float, is_right: bool, depth: int = 1, share: float = 1.0) -> None:
        """Hear the verdict on a guess, one of 1 / `share` for the same position.

        What was promised lately is remembered for as many verdicts however many guesses each has: else the unlikely
        ones beside a guess would make its promises forgotten.
        """
        bucket = min(_BUCKETS - 1, int(confidence * _BUCKETS))
        band = _BAND_OF[min(depth, _DEEPEST)]
        rate = self._rates[bucket]
        promised = rate * min(1.0, self._met / self._expected)
        # Sums of hits fade, the older ones counting a little less; the prior in them stays.
        expected, met = self._band_expected[band] - _BAND_PRIOR_HITS, self._band_met[band] - _BAND_PRIOR_HITS
        self._band_expected[band] = expected * _BAND_FORGET + promised + _BAND_PRIOR_HITS
        self._band_met[band] = met * _BAND_FORGET + is_right + _BAND_PRIOR_HITS
        memory = _LATELY**share
        self._expected = (self._expected - _PRIOR_HITS) * memory + rate + _PRIOR_HITS
        self._met = (self._met - _PRIOR_HITS) * memory + is_right + _PRIOR_HITS
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
