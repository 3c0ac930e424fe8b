"""Counters of one request, and of all runs; docs/methodology.md defines them."""

from __future__ import annotations

from dataclasses import dataclass

from mpispec.core.messages import Run


@dataclass(slots=True)
class Statistics:
    """Goes on counting after the request has ended, until its last run is answered."""

    began: float | None = None
    """Clock when the request left the queue."""
    cached: int = 0
    """Tokens of the prompt whose cells were there already."""
    drafted: int = 0
    """Draft tokens dispatched."""
    accepted: int = 0
    """Of those, accepted."""
    verified: int = 0
    """Decisions at the root while a draft token for it was in flight."""
    preemptions: int = 0
    """How often it had to give its cells up and compute them again later."""
    runs: int = 0
    cancelled_runs: int = 0
    void_runs: int = 0
    """Cancelled runs that came back without having been computed to the end."""
    cancelled_rows: int = 0
    """Rows that nobody wanted any more while they were in flight."""

    def add(self, other: Statistics) -> None:
        """Add the counters of another request."""
        self.cached += other.cached
        self.drafted += other.drafted
        self.accepted += other.accepted
        self.verified += other.verified
        self.preemptions += other.preemptions
        self.runs += other.runs
        self.cancelled_runs += other.cancelled_runs
        self.void_runs += other.void_runs
        self.cancelled_rows += other.cancelled_rows

    @property
    def acceptance_rate(self) -> float | None:
        """Share of the decisions with a draft token in flight that accepted one; None before the first."""
        return self.accepted / self.verified if self.verified else None


@dataclass(slots=True)
class RunCounts:
    """Runs that a head has dispatched, each once, whatever requests its rows are of."""

    runs: int = 0
    rows: int = 0
    deciding_runs: int = 0
    """Runs with a row that decides a token; the others are chunks from the middle of a prompt."""
    deciding_rows: int = 0

    def count(self, run: Run) -> None:
        """Count a run that is being dispatched."""
        deciding = sum(row.decide for row in run.rows)
        self.runs += 1
        self.rows += len(run.rows)
        self.deciding_runs += deciding > 0
        self.deciding_rows += deciding
