"""How near a generation came to the law of speed-up (docs/methodology.md, Achieved over law)."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mpispec.runtime.job import RankReport
from mpispec.sim.costs import exit_speedup

FEWEST_RUNS = 5
"""One-row runs of a stage below which their median says nothing."""


class Span(NamedTuple):
    """Seconds on rank 0's clock."""

    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Lap:
    """One compute of a worker."""

    worker: str
    span: Span
    rows: int
    is_whole: bool
    """Whether it was computed to its end."""


def decoding(leader: RankReport) -> Span:
    """Return the time from the first token of the last request to its last one; `leader` is rank 0."""
    accepts = [event for event in leader.events if event[1] == "accept"]
    last = max(event[4]["request"] for event in accepts)
    times = [event[2] + leader.clock_offset for event in accepts if event[4]["request"] == last and event[4]["tokens"]]
    return Span(times[0], times[-1]) if times else Span(0.0, 0.0)


def laps(rank: RankReport) -> list[Lap]:
    """Return the computes of a rank, on rank 0's clock."""
    return [
        Lap(
            lane,
            Span(start + rank.clock_offset, end + rank.clock_offset),
            details["rows"],
            is_whole=name != "aborted",
        )
        for lane, name, start, end, details in rank.events
        if "rows" in details
    ]


def busy_share(computed: Sequence[Lap], during: Span) -> float | None:
    """Return the share of a time that a rank's busiest worker was computing; None without workers or time."""
    length = during.end - during.start
    seconds: dict[str, float] = {}
    for lap in computed:
        overlap = min(lap.span.end, during.end) - max(lap.span.start, during.start)
        seconds[lap.worker] = seconds.get(lap.worker, 0.0) + max(0.0, overlap)
    return max(seconds.values()) / length if seconds and length > 0 else None


def step_s(computed: Sequence[Lap], worker: str, during: Span) -> float | None:
    """Return the median seconds of a worker's whole one-row computes that began in a time; None if they are few."""
    spent = [
        lap.span.end - lap.span.start
        for lap in computed
        if lap.worker == worker and lap.is_whole and lap.rows == 1 and during.start <= lap.span.start < during.end
    ]
    return statistics.median(spent) if len(spent) >= FEWEST_RUNS else None


def bytes_per_token(
    held: Mapping[str, int], computed: Sequence[Sequence[Lap]], during: Span, tokens: int
) -> int | None:
    """Return how many bytes of weights were read for a token; None unless there are two.

    `held` are the bytes of each worker that counts, `computed` the computes of each rank. What a rank begins at one
    time is one pass, which reads weights that several stages share only once.
    """
    passes = {
        (rank, lap.span.start): held[lap.worker]
        for rank, mine in enumerate(computed)
        for lap in mine
        if lap.worker in held and during.start <= lap.span.start < during.end
    }
    return round(sum(passes.values()) / (tokens - 1)) if tokens > 1 else None


def compared_with_law(
    report: dict[str, Any],
    stage_s: Sequence[float | None],
    draft_s: float | None = None,
    exit_stage: int = 1,
) -> dict[str, Any]:
    """Return tau, the law's rate and how much of it was achieved, then the same at the pace of the draft.

    `report` is `Engine.report` of the request, `stage_s` what a one-row run takes on each stage of the target,
    `draft_s` what a step of the draft takes if there is one, `exit_stage` the number of the first stage that drafts; a
    draft model is as early as the first could be. What cannot be known is None: tau if a stage computed hardly any such
    runs, the rest without tau or without a second token.
    """
    decided = report["tokens"] - 1
    # The token that ended the answer may have been drafted and is not counted among its tokens.
    acceptance_rate = min(1.0, report["speculation"]["accepted"] / decided) if decided > 0 else None
    known = [seconds for seconds in stage_s if seconds is not None]
    tau = max(known) if len(known) == len(stage_s) else None
    speedup = exit_speedup(acceptance_rate, exit_stage / len(stage_s)) if acceptance_rate is not None else None
    law = speedup / (len(stage_s) * tau) if speedup is not None and tau is not None else None
    paced = None
    if acceptance_rate is not None and tau is not None:
        paced = 1.0 / (acceptance_rate * max(tau, draft_s or 0.0) + (1.0 - acceptance_rate) * len(stage_s) * tau)
    achieved = report["timing"]["tokens_per_s"]
    return {
        "stages": len(stage_s),
        "tau_ms": _rounded(tau, 1000.0, 4),
        "stage_ms": [_rounded(seconds, 1000.0, 4) for seconds in stage_s],
        "acceptance_rate_of_all": _rounded(acceptance_rate, 1.0, 4),
        "law_speedup": _rounded(speedup, 1.0, 3),
        "law_tokens_per_s": _rounded(law, 1.0, 3),
        "achieved_over_law": _rounded(achieved / law if law and achieved else None, 1.0, 4),
        "paced_tokens_per_s": _rounded(paced, 1.0, 3),
        "achieved_over_paced": _rounded(achieved / paced if paced and achieved else None, 1.0, 4),
    }


def _rounded(value: float | None, factor: float, digits: int) -> float | None:
    return None if value is None else round(value * factor, digits)
