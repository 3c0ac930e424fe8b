"""GET /metrics: Prometheus can read it, it is documented, and it says what happened."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import parser
from serve_fake import DEADLINE, FakeEngine, serving

pytestmark = pytest.mark.unit

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"
CHAT = "/v1/chat/completions"


def say(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **fields}


def read(client: httpx.Client) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return the value of every sample by name and labels, the buckets left out."""
    families = parser.text_string_to_metric_families(client.get("/metrics").text)
    samples = [sample for family in families for sample in family.samples]
    return {(each.name, tuple(sorted(each.labels.items()))): each.value for each in samples if "le" not in each.labels}


def value(client: httpx.Client, name: str, **labels: str) -> float:
    return read(client)[name, tuple(sorted(labels.items()))]


def test_every_metric_is_documented_and_nothing_else(client: httpx.Client) -> None:
    client.post(CHAT, json=say("hi"))
    families = parser.text_string_to_metric_families(client.get("/metrics").text)
    served = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    documented = set(re.findall(r"`((?:mpispec:|process_)\w+)`", DOCUMENT.read_text()))
    assert served == documented


def test_it_is_text_whatever_is_asked_for(client: httpx.Client) -> None:
    newest = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3"
    answer = client.get("/metrics", headers={"Accept": newest})
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


def test_requests_are_counted_by_path_and_code(client: httpx.Client) -> None:
    for path in (CHAT, "/chat/completions"):
        client.post(path, json=say("hi"))
    client.post(CHAT, json={})
    client.get("/v1/models/none")
    for index in range(3):
        client.get(f"/nowhere/{index}")
        client.request(f"BREW{index}", "/health")
    found = {labels: count for (name, labels), count in read(client).items() if name == "mpispec:http_requests_total"}
    expected = [
        ("POST", "/chat/completions", "200", 2),
        ("POST", "/chat/completions", "400", 1),
        ("GET", "/models/{name}", "404", 1),
        ("GET", "other", "404", 3),
        ("other", "/health", "405", 3),
    ]
    assert found == {
        (("code", code), ("method", method), ("path", path)): count for method, path, code, count in expected
    }


def test_answers_are_measured(client: httpx.Client) -> None:
    assert client.post(CHAT, json=say("hi", n=2)).status_code == 200
    assert client.post("/v1/completions", json={"prompt": "forever", "max_tokens": 7}).status_code == 200
    assert client.post("/v1/completions", json={"prompt": "forever", "max_tokens": 9, "stream": True}).is_success
    lengths = [13, 13, 7, 9]
    while value(client, "mpispec:request_prompt_tokens_count") < 4:
        pass  # a stream is counted after its last byte
    metrics = read(client)
    assert metrics["mpispec:request_success_total", (("finished_reason", "stop"),)] == 2
    assert metrics["mpispec:request_success_total", (("finished_reason", "length"),)] == 2
    assert metrics["mpispec:request_generation_tokens_sum", ()] == sum(lengths)
    assert metrics["mpispec:request_prompt_tokens_count", ()] == 4
    assert metrics["mpispec:time_to_first_token_seconds_count", ()] == 4
    assert metrics["mpispec:inter_token_latency_seconds_count", ()] == sum(lengths) - 4
    first, whole, gaps = (
        metrics[f"mpispec:{name}_seconds_sum", ()]
        for name in ("time_to_first_token", "e2e_request_latency", "inter_token_latency")
    )
    assert 0 < first <= whole
    assert whole == pytest.approx(first + gaps)


def test_what_the_engine_says_is_passed_on(client: httpx.Client, engine: FakeEngine) -> None:
    client.post("/v1/completions", json={"prompt": "forever", "max_tokens": 10})
    assert value(client, "mpispec:generation_tokens_total") == 10
    assert value(client, "mpispec:prompt_tokens_total") == value(client, "mpispec:prefix_cache_queries_total") == 7
    assert value(client, "mpispec:spec_decode_num_accepted_tokens_total", drafter="ngram") == 30
    assert value(client, "mpispec:spec_decode_num_verified_total", drafter="ngram") == 40
    assert value(client, "mpispec:rank_busy_seconds_total", rank="0") == 1.5
    assert value(client, "mpispec:rank_idle_seconds_total", rank="1") == 1.5
    assert value(client, "mpispec:link_bytes_total", src="1", dst="0") == 300
    assert value(client, "mpispec:kv_cache_usage_perc") == 0.25
    assert value(client, "mpispec:rank_info", rank="1", host="b", roles="stage 2", layers="10-19") == 1
    with client.stream("POST", CHAT, json=say("wait", stream=True)):
        engine.await_requests(2)
        assert value(client, "mpispec:num_requests_running") == 1


def test_an_answer_whose_client_left_is_counted_as_such(client: httpx.Client, engine: FakeEngine) -> None:
    with client.stream("POST", CHAT, json=say("wait", stream=True)) as answer:
        next(answer.iter_lines())
    engine.await_withdrawn(1)
    aborted = ("mpispec:request_success_total", (("finished_reason", "abort"),))
    while aborted not in read(client):
        pass  # it is counted after the engine has been told
    assert read(client)[aborted] == 1


def test_the_key_is_needed() -> None:
    with serving(FakeEngine(), key="secret") as url:
        assert httpx.get(f"{url}/metrics", timeout=DEADLINE, trust_env=False).status_code == 401
        with_key = {"Authorization": "Bearer secret"}
        found = httpx.get(f"{url}/metrics", headers=with_key, timeout=DEADLINE, trust_env=False)
        assert 'path="/metrics"' in found.text, "refusals are counted too"
