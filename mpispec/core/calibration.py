"""How far a proposer's confidence can be believed: learned from verdicts, by bucket of confidence."""

from __future__ import annotations

_BUCKETS = 10
_PRIOR_TRIES = 4.0
_FORGET = 0.995
"""What is left of old evidence after one more try: texts change, so the last few hundred tries count."""

_LATELY = 0.97
_PRIOR_HITS = 2.0


class Calibration:
    """Maps a confidence to a chance; starts by believing it and ends by believing what happened.

    A proposer that breaks its promises is believed less at every confidence before each bucket has been learned.
    """

    def __init__(self, num_buckets: int = _BUCKETS) -> None:
        centres = [(index + 0.5) / num_buckets for index in range(num_buckets)]
        self._expected = self._met = _PRIOR_HITS
        """What was promised lately, all buckets together, and what was kept."""
        self._tries = [_PRIOR_TRIES] * num_buckets
        self._hits = [_PRIOR_TRIES * centre for centre in centres]

    def chance(self, confidence: float) -> float:
        """Return how often guesses of about this confidence were right."""
        return self._of_bucket(self._bucket(confidence)) * min(1.0, self._met / self._expected)

    def learn(self, confidence: float, is_right: bool) -> None:
        """Hear the verdict on a guess."""
        bucket = self._bucket(confidence)
        self._expected = (self._expected - _PRIOR_HITS) * _LATELY + self._of_bucket(bucket) + _PRIOR_HITS
        self._met = (self._met - _PRIOR_HITS) * _LATELY + is_right + _PRIOR_HITS
        self._tries[bucket] = self._tries[bucket] * _FORGET + 1.0
        self._hits[bucket] = self._hits[bucket] * _FORGET + is_right

    def _of_bucket(self, bucket: int) -> float:
        return self._hits[bucket] / self._tries[bucket]

    def _bucket(self, confidence: float) -> int:
        return min(len(self._tries) - 1, int(confidence * len(self._tries)))
