"""How far a proposer's confidence can be believed: learned from verdicts, by bucket of confidence."""

from __future__ import annotations

_BUCKETS = 10
_PRIOR_TRIES = 4.0
_FORGET = 0.995
"""What is left of old evidence after one more try: texts change, so the last few hundred tries count."""


class Calibration:
    """Maps a confidence to a chance; starts by believing it and ends by believing what happened."""

    def __init__(self, num_buckets: int = _BUCKETS) -> None:
        centres = [(index + 0.5) / num_buckets for index in range(num_buckets)]
        self._tries = [_PRIOR_TRIES] * num_buckets
        self._hits = [_PRIOR_TRIES * centre for centre in centres]

    def chance(self, confidence: float) -> float:
        """Return how often guesses of about this confidence were right."""
        bucket = self._bucket(confidence)
        return self._hits[bucket] / self._tries[bucket]

    def learn(self, confidence: float, is_right: bool) -> None:
        """Hear the verdict on a guess."""
        bucket = self._bucket(confidence)
        self._tries[bucket] = self._tries[bucket] * _FORGET + 1.0
        self._hits[bucket] = self._hits[bucket] * _FORGET + is_right

    def _bucket(self, confidence: float) -> int:
        return min(len(self._tries) - 1, int(confidence * len(self._tries)))
