"""What an engine has said of itself (`Engine.stats`, `Engine.ranks`), as metrics (docs/metrics.md)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

import mpispec

_COUNTERS = {
    "prompt_tokens": ("prompt_tokens", "Tokens of prompts whose turn has come, cached ones too."),
    "generation_tokens": ("tokens", "Tokens of answers."),
    "prefix_cache_queries": ("prompt_tokens", "Tokens of prompts that were looked for in the cache."),
    "prefix_cache_hits": ("cached_tokens", "Of these, those that were there."),
    "num_preemptions": ("preemptions", "Requests that had to give their cells up and go on later."),
    "cancelled_runs": ("cancelled_runs", "Runs that nobody wanted any more while they were in flight, by request."),
    "cancelled_rows": ("cancelled_rows", "Rows that nobody wanted any more while they were in flight."),
}
"""Counters by name, each with the field of `Engine.stats` that holds it."""
_GAUGES = {
    "num_requests_running": ("running", "Requests that are being computed."),
    "num_requests_waiting": ("waiting", "Requests that wait for their turn."),
    "num_requests_most": ("most_running", "Requests that may run at once."),
    "runs_in_flight": ("runs_in_flight", "Runs on their way through the stages."),
    "rows_in_flight": ("rows_in_flight", "Rows in them that decide a token."),
    "kv_cache_cells": ("cells", "Cells that a stage has."),
    "kv_cache_cells_used": ("cells_used", "Cells in use, by cached texts too."),
}
"""The same for `now` of `Engine.stats`."""
_DRAFTERS = {
    "spec_decode_num_draft_tokens": ("drafted", "Draft tokens that were dispatched."),
    "spec_decode_num_accepted_tokens": ("accepted", "Of these, those that were right."),
    "spec_decode_num_verified": ("verified", "Tokens that were decided while a draft token for them was in flight."),
}
"""The same for each of its `drafters`."""


def engine_metrics(
    labels: Mapping[str, str], stats: Mapping[str, Any], ranks: Mapping[int, Mapping[str, Any]]
) -> Iterator[Metric]:
    """Yield metrics from what `Engine.stats` and `Engine.ranks` returned; `labels` describe the model."""
    yield InfoMetricFamily("mpispec:model", "The model.", {**labels, "version": mpispec.__version__})
    for name, (field, words) in _COUNTERS.items():
        yield CounterMetricFamily(f"mpispec:{name}", words, stats[field])
    dispatched = stats["dispatched"]
    yield CounterMetricFamily("mpispec:runs", "Runs that were dispatched.", dispatched["runs"])
    yield CounterMetricFamily("mpispec:rows", "Rows of these runs.", dispatched["rows"])
    yield from _occupancy(stats["now"])
    for name, (field, words) in _DRAFTERS.items():
        values = (([drafter], counts[field]) for drafter, counts in stats["drafters"].items())
        yield _counter(name, words, ["drafter"], values)
    yield from _ranks(stats["uptime_s"], ranks)


def _occupancy(now: Mapping[str, int]) -> Iterator[Metric]:
    """Yield gauges; none once the head has ended."""
    for name, (field, words) in _GAUGES.items():
        yield GaugeMetricFamily(f"mpispec:{name}", words, now.get(field))
    usage = min(1.0, now["cells_used"] / now["cells"]) if now else None
    yield GaugeMetricFamily("mpispec:kv_cache_usage_perc", "Share of the cells in use, from 0 to 1.", usage)


def _ranks(uptime_s: float, ranks: Mapping[int, Mapping[str, Any]]) -> Iterator[Metric]:
    info = InfoMetricFamily("mpispec:rank", "Where a rank is and what it holds.", labels=["rank"])
    for rank, found in ranks.items():
        layers = ",".join(f"{first}-{last}" for first, last in found.get("layers", ()))
        info.add_metric([str(rank)], {"host": found.get("host", ""), "roles": _roles(found), "layers": layers})
    yield info
    busy = {rank: found["busy_s"] for rank, found in ranks.items()}
    values = (([str(rank)], seconds) for rank, seconds in busy.items())
    yield _counter("rank_busy_seconds", "Time that a rank has computed.", ["rank"], values)
    values = (([str(rank)], max(0.0, uptime_s - seconds)) for rank, seconds in busy.items())
    yield _counter("rank_idle_seconds", "Time that it has not.", ["rank"], values)
    sent = (
        ([str(rank), str(other)], num_bytes)
        for rank, found in ranks.items()
        for other, num_bytes in enumerate(found["sent"])
        if other != rank
    )
    yield _counter("link_bytes", "Bytes of frames from one rank to another.", ["src", "dst"], sent)


def _roles(found: Mapping[str, Any]) -> str:
    return "+".join(found.get("roles", ()))


def _counter(name: str, words: str, labels: list[str], values: Iterable[tuple[list[str], float]]) -> Metric:
    family = CounterMetricFamily(f"mpispec:{name}", words, labels=labels)
    for found, value in values:
        family.add_metric(found, value)
    return family
