"""When a request's tokens became final, and the figures that follow from it (docs/methodology.md)."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

from mpispec.core.statistics import Statistics


@dataclass(slots=True)
class Timeline:
    """Seconds on the monotonic clock of rank 0."""

    submitted: float
    prompt_tokens: int
    strategy: str
    proposer: str
    seed: int
    times: list[float] = field(default_factory=list)
    """One for each token of the answer."""
    statistics: Statistics | None = None

    def report(self) -> dict[str, Any]:
        """Return the figures, JSON-ready."""
        statistics = self.statistics or Statistics()
        times = self.times
        began = statistics.began if statistics.began is not None else self.submitted
        decode_s = times[-1] - times[0] if times else 0.0
        gaps = sorted((later - earlier) * 1000 for earlier, later in itertools.pairwise(times))
        return {
            "strategy": self.strategy,
            "proposer": self.proposer,
            "seed": self.seed,
            "prompt_tokens": self.prompt_tokens,
            "tokens": len(times),
            "timing": {
                "prefill_s": round(times[0] - began, 6) if times else None,
                "ttft_s": round(times[0] - self.submitted, 6) if times else None,
                "decode_s": round(decode_s, 6),
                "tokens_per_s": round((len(times) - 1) / decode_s, 3) if decode_s > 0 else None,
                "itl_ms": {"p50": _percentile(gaps, 0.5), "p95": _percentile(gaps, 0.95)},
            },
            "speculation": {
                "proposed": statistics.proposed,
                "accepted": statistics.accepted,
                "hit_rate": None if statistics.hit_rate is None else round(statistics.hit_rate, 4),
                "runs": statistics.runs,
                "cancelled_runs": statistics.cancelled_runs,
                "void_runs": statistics.void_runs,
            },
        }


def _percentile(ordered: list[float], share: float) -> float | None:
    """Return the nearest-rank percentile of an ordered list."""
    if not ordered:
        return None
    return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)], 3)
