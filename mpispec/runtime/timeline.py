"""When the tokens of a request became final, and what follows from it."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

from mpispec.core.statistics import Statistics
from mpispec.runtime.totals import Totals


@dataclass(slots=True)
class Timeline:
    """When a request's tokens became final, and the figures that follow from it (docs/methodology.md).

    Times are seconds on the monotonic clock of rank 0.
    """

    submitted: float
    prompt_tokens: int
    strategy: str
    drafter: str
    seed: int
    is_traced: bool = False
    is_silent: bool = False
    """Whether nothing is to be written: the one token that the engine cannot but decide is kept back."""
    times: list[float] = field(default_factory=list)
    """One for each token of the answer."""
    statistics: Statistics | None = None

    def add_to(self, totals: Totals) -> None:
        """Add the request to totals, if it has begun."""
        if self.statistics is not None:
            totals.add(self.drafter, self.prompt_tokens, self.statistics)

    def report(self) -> dict[str, Any]:
        """Return the figures, JSON-ready."""
        statistics = self.statistics or Statistics()
        times = self.times
        began = statistics.began if statistics.began is not None else self.submitted
        decode_s = times[-1] - times[0] if times else 0.0
        gaps = sorted((later - earlier) * 1000 for earlier, later in itertools.pairwise(times))
        return {
            "strategy": self.strategy,
            "drafter": self.drafter,
            "seed": self.seed,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": statistics.cached,
            "tokens": len(times),
            "timing": {
                "prefill_s": round(times[0] - began, 6) if times else None,
                "ttft_s": round(times[0] - self.submitted, 6) if times else None,
                "queue_s": round(began - self.submitted, 6),
                "decode_s": round(decode_s, 6),
                "tokens_per_s": round((len(times) - 1) / decode_s, 3) if decode_s > 0 else None,
                "itl_ms": {"p50": _percentile(gaps, 0.5), "p95": _percentile(gaps, 0.95)},
            },
            "speculation": {
                "drafted": statistics.drafted,
                "accepted": statistics.accepted,
                "verified": statistics.verified,
                "acceptance_rate": None if statistics.acceptance_rate is None else round(statistics.acceptance_rate, 4),
                "runs": statistics.runs,
                "cancelled_runs": statistics.cancelled_runs,
                "void_runs": statistics.void_runs,
            },
            "preemptions": statistics.preemptions,
        }


def _percentile(ordered: list[float], share: float) -> float | None:
    """Return the nearest-rank percentile of an ordered list."""
    if not ordered:
        return None
    return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)], 3)
