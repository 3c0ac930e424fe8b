"""What real ranks say of their work: metrics, the log, `mpispec top`, and the end of a server on a kept connection."""

from __future__ import annotations

import json
import os
import subprocess

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.mpi.program import MPISPEC
from tests.mpi.test_serve import LONG, QUESTION, SECONDS, serving
from tests.mpi.test_serve_end import ENDING, SERVED, events_of

pytestmark = pytest.mark.mpi

RANKS = 2
PROMPT = {
    "messages": [{"role": "user", "content": LONG}],
    "max_tokens": 40,
    "drafter": "ngram",
    "strategy": "pipeinfer",
}


def read(client: httpx.Client) -> dict[str, dict[tuple[str, ...], float]]:
    """Return the values of all metrics of ours by name and values of labels."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            name = sample.name.removeprefix("mpispec:")
            labels = sorted(sample.labels.items(), reverse=True)  # source before destination
            found.setdefault(name, {})[tuple(value for _, value in labels)] = sample.value
    return found


def test_ranks_say_what_they_did() -> None:
    with serving(RANKS, "--no-repl", "--log", "json", "--parallel", "1") as (program, client):
        answers = [client.post("/v1/chat/completions", json=PROMPT).json() for _ in range(2)]
        metrics = read(client)
        usages = [answer["usage"] for answer in answers]
        cached = [usage["prompt_tokens_details"]["cached_tokens"] for usage in usages]
        speculation = [answer["mpispec"]["speculation"] for answer in answers]
        assert metrics["prompt_tokens_total"][()] == sum(usage["prompt_tokens"] for usage in usages)
        assert metrics["generation_tokens_total"][()] == sum(usage["completion_tokens"] for usage in usages)
        assert metrics["prefix_cache_hits_total"][()] == sum(cached) > 0
        drafted, accepted = (sum(each[name] for each in speculation) for name in ("drafted", "accepted"))
        assert metrics["spec_decode_num_draft_tokens_total"] == {("ngram",): drafted}
        assert metrics["spec_decode_num_accepted_tokens_total"] == {("ngram",): accepted}
        assert accepted > 0, "the second answer is the first once more"
        assert metrics["time_to_first_token_seconds_count"][()] == metrics["request_queue_time_seconds_count"][()] == 2
        assert all(seconds > 0 for seconds in metrics["rank_busy_seconds_total"].values())
        assert set(metrics["link_bytes_total"]) == {("0", "1"), ("1", "0")}
        assert all(num_bytes > 0 for num_bytes in metrics["link_bytes_total"].values())
        wanted = metrics["rows_total"][()] - metrics["cancelled_rows_total"][()]
        assert metrics["link_bytes_total"]["0", "1"] > wanted * 576 * 4, "each row has 576 floats"
        assert metrics["kv_cache_cells_used"][()] >= usages[1]["total_tokens"] - 1
        assert metrics["num_requests_running"][()] == metrics["rows_in_flight"][()] == 0
        assert [labels[0] for labels in metrics["rank_info"]] == ["head+stage 1", "stage 2"]
        lines = [json.loads(line) for line in program.stderr.splitlines() if line.startswith('{"time"')]
        assert [line["answer_tokens"] for line in lines[:2]] == [usage["completion_tokens"] for usage in usages]
        assert [line["cached_tokens"] for line in lines[:2]] == cached
        shown = top("--url", str(client.base_url))
        assert shown.returncode == 0, shown.stderr
        assert "of 1" in shown.stdout
        assert "stage 2" in shown.stdout
        program.rank(0).terminate()
        assert program.assert_ended() == 0


def top(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run `mpispec top` without mpirun."""
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("OMPI_", "PMI_"))}
    command = [*MPISPEC, "top", "--once", *argv]
    return subprocess.run(command, env=alone, capture_output=True, text=True, check=False, timeout=SECONDS)


def test_kept_connections_learn_that_the_server_is_about_to_end() -> None:
    with serving(RANKS, "--no-repl") as (program, client), httpx.Client(base_url=client.base_url) as kept:
        assert kept.get("/health", timeout=SECONDS).status_code == 200
        with client.stream("POST", "/v1/chat/completions", json=SERVED) as answer:
            events = events_of(answer)
            next(events)
            program.rank(0).terminate()
            program.wait_for(ENDING, "stderr")
            health = kept.get("/health")
            assert (health.status_code, health.json()["status"]) == (503, "draining")
            refused = kept.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": QUESTION}]})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
            assert int(refused.headers["retry-after"]) > 0
            assert list(events)[-1] == "[DONE]"
        assert program.assert_ended() == 0
