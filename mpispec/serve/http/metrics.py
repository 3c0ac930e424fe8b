"""What the server counts of its requests, and GET /metrics in Prometheus' form (docs/metrics.md)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from mpispec.serve.http.engine_metrics import engine_metrics
from mpispec.serve.http.facts import Answered, Facts
from mpispec.serve.text.service import Service

_FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640)
_GAP = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10, 20, 40, 80)
_WHOLE = (0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920)
_TOKENS = tuple(size * 10**power for power in range(6) for size in (1, 2, 5))
"""Upper bounds of buckets, in seconds and in tokens: vLLM's, so that its dashboards fit."""

disable_created_metrics()  # a gauge more for each histogram and counter, which Prometheus itself makes no use of


class Metrics:
    """Counts the requests of one server; may be used from any thread."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=registry)

        def histogram(name: str, words: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"mpispec:{name}", words, buckets=buckets, registry=registry)

        self._requests = Counter(
            "mpispec:http_requests", "HTTP requests.", ("method", "path", "code"), registry=registry
        )
        self._ends = Counter("mpispec:request_success", "Answers that ended.", ("finished_reason",), registry=registry)
        self._first = histogram("time_to_first_token_seconds", "From a request to its first token.", _FIRST)
        self._gap = histogram("inter_token_latency_seconds", "Between two tokens of an answer.", _GAP)
        self._whole = histogram("e2e_request_latency_seconds", "From a request to its last token.", _WHOLE)
        self._queue = histogram("request_queue_time_seconds", "From a request to its turn.", _FIRST)
        self._prompt = histogram("request_prompt_tokens", "Tokens of a prompt.", _TOKENS)
        self._answer = histogram("request_generation_tokens", "Tokens of an answer.", _TOKENS)

    def count(self, method: str, path: str, status: int, facts: Facts) -> None:
        """Count a request that has been answered; `method` and `path` must be of a bounded number."""
        self._requests.labels(method, path, str(status)).inc()
        for answer in facts.answers:
            self._count_answer(answer, facts.came)

    def render(self, of_engine: Iterator[Metric]) -> bytes:
        """Return all metrics as text; as OpenMetrics, prometheus_client 0.26 would take the colons from samples."""
        return generate_latest(_Both(self._registry, of_engine))

    def _count_answer(self, answer: Answered, came: float) -> None:
        self._ends.labels(answer.finish_reason).inc()
        self._prompt.observe(answer.prompt_tokens)
        self._answer.observe(len(answer.times))
        if answer.times:
            self._first.observe(answer.times[0] - came)
            self._whole.observe(answer.times[-1] - came)
        for earlier, later in itertools.pairwise(answer.times):
            self._gap.observe(later - earlier)
        if (queue_s := answer.figure("timing", "queue_s")) is not None:
            self._queue.observe(queue_s)


class _Both(Collector):
    """What the server counts, then what the engine has said."""

    def __init__(self, registry: CollectorRegistry, of_engine: Iterator[Metric]) -> None:
        self._registry = registry
        self._of_engine = of_engine

    def collect(self) -> Iterator[Metric]:
        yield from self._registry.collect()
        yield from self._of_engine


class MetricsPage:
    """GET /metrics."""

    def __init__(self, service: Service, metrics: Metrics) -> None:
        self._service = service
        self._metrics = metrics

    async def answer(self, http: Request) -> Response:
        """Answer with all metrics."""
        body = await run_in_threadpool(self._render)
        return Response(body, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    def _render(self) -> bytes:
        service, engine = self._service, self._service.engine
        labels: dict[str, Any] = {"model_name": service.model, "exactness": engine.facts.promise.exactness}
        return self._metrics.render(engine_metrics(labels, engine.stats(), engine.ranks()))
