"""Counters of one request; docs/methodology.md defines them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Statistics:
    """Goes on counting after the request has ended, until its last run is answered."""

    began: float | None = None
    """Clock when the request left the queue."""
    proposed: int = 0
    """Guesses launched."""
    accepted: int = 0
    """Of those, accepted."""
    verdicts: int = 0
    """Decisions at the root while a guess for it was in flight."""
    hits: int = 0
    """Of those, decisions that a guess had right."""
    runs: int = 0
    cancelled_runs: int = 0
    void_runs: int = 0
    """Cancelled runs that came back without having been computed to the end."""

    def add(self, other: Statistics) -> None:
        """Add the counters of another request."""
        self.proposed += other.proposed
        self.accepted += other.accepted
        self.verdicts += other.verdicts
        self.hits += other.hits
        self.runs += other.runs
        self.cancelled_runs += other.cancelled_runs
        self.void_runs += other.void_runs

    @property
    def hit_rate(self) -> float | None:
        """Share of the decisions with a guess in flight that the guess had right; None before the first."""
        return self.hits / self.verdicts if self.verdicts else None
