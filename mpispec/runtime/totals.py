"""Counters of many requests together, as `Engine.stats` gives them."""

from __future__ import annotations

from typing import Any

from mpispec.core.statistics import Statistics


class Totals:
    """Adds up requests that have begun, and tells them apart by what drafted for them."""

    def __init__(self) -> None:
        self._prompt_tokens = 0
        self._by_drafter: dict[str, Statistics] = {}

    def add(self, drafter: str, prompt_tokens: int, statistics: Statistics) -> None:
        """Add a request."""
        self._prompt_tokens += prompt_tokens
        self._by_drafter.setdefault(drafter, Statistics()).add(statistics)

    def copy(self) -> Totals:
        """Return totals that further requests can be added to."""
        copied = Totals()
        copied._prompt_tokens = self._prompt_tokens
        for drafter, statistics in self._by_drafter.items():
            copied.add(drafter, 0, statistics)
        return copied

    def fields(self) -> dict[str, Any]:
        """Return the counters, JSON-ready; acceptance also by drafter."""
        total = Statistics()
        for statistics in self._by_drafter.values():
            total.add(statistics)
        return {
            **_speculation(total),
            "runs": total.runs,
            "cancelled_runs": total.cancelled_runs,
            "cancelled_rows": total.cancelled_rows,
            "prompt_tokens": self._prompt_tokens,
            "cached_tokens": total.cached,
            "preemptions": total.preemptions,
            "drafters": {name: _speculation(each) for name, each in sorted(self._by_drafter.items())},
        }


def _speculation(statistics: Statistics) -> dict[str, Any]:
    rate = statistics.acceptance_rate
    return {
        "drafted": statistics.drafted,
        "accepted": statistics.accepted,
        "verified": statistics.verified,
        "acceptance_rate": None if rate is None else round(rate, 4),
    }
