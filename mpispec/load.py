"""A load of requests: who asks when, and for how much; and the figures of what clients got for it.

Real clients (`mpispec bench serve`) and virtual time (`mpispec simulate`) draw the same load and count alike.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from mpispec.core.statistics import RunCounts, Statistics

Outcome = Literal["ok", "cancelled", "failed"]
Lengths = tuple[int, int]
"""The least and the most, both included; each is equally likely."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of a server, all of it drawn from the seed."""

    num_requests: int
    prompt: Lengths
    """In words where the client has no tokenizer, else in tokens."""
    answer: Lengths
    """In tokens."""
    rate: float | None = None
    """Requests a second of a Poisson process; None for a closed loop."""
    concurrency: int = 1
    """Clients of the closed loop: each asks again as soon as its last request has ended."""
    cancel_share: float = 0.0
    """Chance that a client hangs up midway."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Planned:
    """A request to be sent."""

    index: int
    arrival_s: float
    """Seconds from the beginning of the load; 0 in a closed loop, where its turn decides."""
    prompt: int
    answer: int
    """The most tokens."""
    cancel_after: int | None
    """Hang up after so many tokens, fewer than `answer`; None: never."""


def planned(load: Load) -> list[Planned]:
    """Draw the requests of a load. Arrivals, lengths and cancels are independent of each other."""
    arrivals, lengths, cancels = (random.Random(f"{load.seed} {what}") for what in ("arrivals", "lengths", "cancels"))
    found: list[Planned] = []
    now = 0.0
    for index in range(load.num_requests):
        if load.rate is not None and index:
            now += arrivals.expovariate(load.rate)
        prompt, answer = lengths.randint(*load.prompt), lengths.randint(*load.answer)
        share, after = cancels.random(), cancels.random()
        is_cancelled = share < load.cancel_share and answer > 1
        found.append(Planned(index, now, prompt, answer, 1 + int(after * (answer - 1)) if is_cancelled else None))
    return found


@dataclass(slots=True)
class Served:
    """What a client saw of one request; times are seconds from the beginning of the load."""

    planned: Planned
    asked_s: float
    times: list[float] = field(default_factory=list)
    """When text came. Tokens that came together are one entry or several equal ones."""
    num_tokens: int = 0
    """At least as many as entries in `times`: a client that hung up has been told of no more."""
    ended_s: float = 0.0
    outcome: Outcome = "failed"
    failure: str = ""
    """Why it failed."""
    prompt_tokens: int | None = None
    """As the server counted; None if it did not say."""

    def gaps(self) -> list[float]:
        """Return the seconds from each token to the next: 0 for a token that came together with the one before."""
        together = max(0, self.num_tokens - len(self.times)) if self.times else 0
        return [*(later - earlier for earlier, later in itertools.pairwise(self.times)), *(0.0,) * together]


def figures(served: Sequence[Served]) -> dict[str, Any]:
    """Return what clients got, JSON-ready (docs/methodology.md).

    Failed requests count as such and in nothing else. Percentiles are numpy's, interpolated; None where there is
    nothing to count.
    """
    useful = [one for one in served if one.outcome != "failed"]
    whole = [one for one in useful if one.outcome == "ok"]
    seconds = max((one.ended_s for one in served), default=0.0) - min((one.asked_s for one in served), default=0.0)
    tokens = sum(one.num_tokens for one in useful)
    prompts = [one.prompt_tokens for one in useful if one.prompt_tokens is not None]
    return {
        "requests": {name: sum(one.outcome == name for one in served) for name in ("ok", "cancelled", "failed")},
        "seconds": round(seconds, 6),
        "prompt_tokens": sum(prompts) if prompts else None,
        "tokens": tokens,
        "tokens_per_s": _ratio(tokens, seconds),
        "requests_per_s": _ratio(len(whole), seconds),
        "ttft_s": spread(one.times[0] - one.asked_s for one in useful if one.times),
        "itl_ms": spread(gap * 1e3 for one in useful for gap in one.gaps()),
        "tpot_ms": spread(sum(gaps) * 1e3 / len(gaps) for one in useful if (gaps := one.gaps())),
        "latency_s": spread(one.ended_s - one.asked_s for one in whole),
        "fairness": fairness([one.num_tokens / (one.ended_s - one.asked_s) for one in whole if one.num_tokens]),
    }


def work(counts: RunCounts, statistics: Statistics, busy_s: Mapping[str, float], seconds: float) -> dict[str, Any]:
    """Return what the server did for it, JSON-ready.

    `counts` and `statistics` are of all requests together, `busy_s` the seconds of `seconds` that each of those who
    compute has computed.
    """
    acceptance = statistics.acceptance_rate
    return {
        "acceptance_rate": None if acceptance is None else round(acceptance, 4),
        "runs": counts.runs,
        "rows_per_run": _ratio(counts.rows, counts.runs),
        "deciding_rows_per_run": _ratio(counts.deciding_rows, counts.deciding_runs),
        "idle": {name: round(max(0.0, 1.0 - busy / seconds), 4) for name, busy in busy_s.items()},
    }


def spread(values: Iterable[float]) -> dict[str, float] | None:
    """Return percentiles and the largest; None without values."""
    found = np.fromiter(values, float)
    if not found.size:
        return None
    names = {"p50": 50, "p95": 95, "p99": 99, "most": 100}
    return {name: round(float(np.percentile(found, share)), 4) for name, share in names.items()}


def fairness(rates: Sequence[float]) -> float | None:
    """Return Jain's index of the requests' tokens a second: 1 if all are equal, 1/n if one has all there is.

    (sum x)^2 / (n sum x^2), from R. Jain, D. Chiu, W. Hawe: A quantitative measure of fairness (DEC-TR-301, 1984).
    """
    squares = sum(rate * rate for rate in rates)
    return round(sum(rates) ** 2 / (len(rates) * squares), 4) if squares else None


def _ratio(count: int, of: float) -> float | None:
    return round(count / of, 3) if of > 0 else None
