"""What difficult clients do to a step, and what a streamed token costs the front process.

python scripts/research clients [--rounds 3] [--tokens 200] [--json]

One rank with one thread answers one request, with and without difficult clients in turn: 100 that read slowly, 50 that
never end their request's head, and one that sends bodies of 8 MiB one after the other. The client's load is on this
host too. Then 64 streams at once, with the CPU time of the front process counted.
"""

from __future__ import annotations

import json
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit

import click
import httpx

from mpispec.bench.facts import host_facts
from mpispec.bench.printing import json_flag, show
from research.idle import cpu_seconds
from research.served import Served, served

_SLOW, _HALF_OPEN, _STREAMS = 100, 50, 64
_BODY_BYTES = 8_000_000
"""Just below what the server takes."""
_PAUSE_S = 0.5
"""Between two reads of a slow reader, of 64 bytes each."""
_PROMPT = "Once upon a time"
_SECONDS = 300.0


def step_ms(job: Served, tokens: int) -> float:
    """Return the median time between two tokens of one answer, as the engine saw it."""
    body = {"prompt": _PROMPT, "max_tokens": tokens, "temperature": 0, "strategy": "plain", "cut_repeats": False}
    answer = httpx.post(f"{job.url}/v1/completions", json=body, timeout=_SECONDS).raise_for_status().json()
    return float(answer["mpispec"]["timing"]["itl_ms"]["p50"])


@contextmanager
def difficult_clients(job: Served) -> Iterator[list[int]]:
    """Have all of them at the server; yields a list with the status of each large body that was answered."""
    address = (urlsplit(job.url).hostname, urlsplit(job.url).port)
    ended = threading.Event()
    statuses: list[int] = []
    with ExitStack() as stack:
        slow = [stack.enter_context(_connected(address)) for _ in range(_SLOW)]
        for connection in slow:
            connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for _ in range(_HALF_OPEN):
            stack.enter_context(_connected(address)).sendall(b"POST /v1/completions HTTP/1.1\r\nHost: loc")
        pool = stack.enter_context(ThreadPoolExecutor(2))
        stack.callback(ended.set)
        pool.submit(_read_slowly, slow, ended)
        pool.submit(_send_large_bodies, job.url, ended, statuses)
        yield statuses


def _connected(address: Any) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(address)
    return connection


def _read_slowly(connections: list[socket.socket], ended: threading.Event) -> None:
    while not ended.wait(_PAUSE_S):
        for connection in connections:
            connection.recv(64)


def _send_large_bodies(url: str, ended: threading.Event, statuses: list[int]) -> None:
    content = json.dumps({"messages": [{"role": "user", "content": "word " * (_BODY_BYTES // 5)}]}).encode()
    with httpx.Client(timeout=_SECONDS) as client:
        while not ended.is_set():
            statuses.append(client.post(f"{url}/v1/chat/completions", content=content).status_code)


def front_us_a_token(job: Served, tokens: int) -> float:
    """Return the CPU time that the front process takes for each of the tokens of many streams at once."""
    body = {"prompt": _PROMPT, "max_tokens": tokens, "temperature": 0, "stream": True, "ignore_eos": True}

    def read(client: httpx.Client) -> int:
        with client.stream("POST", f"{job.url}/v1/completions", json=body) as answer:
            return sum(line.startswith("data: {") for line in answer.iter_lines())

    with httpx.Client(timeout=_SECONDS, limits=httpx.Limits(max_connections=_STREAMS)) as client:
        before = cpu_seconds(job.front.pid)
        with ThreadPoolExecutor(_STREAMS) as pool:
            events = sum(pool.map(read, [client] * _STREAMS))
        return (cpu_seconds(job.front.pid) - before) / events * 1e6


@click.command()
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option(
    "--tokens",
    type=click.IntRange(min=8),
    default=200,
    show_default=True,
    help="Length of an answer; of many at once a quarter.",
)
@json_flag
def main(rounds: int, tokens: int, is_json: bool) -> None:
    """Compare steps with and without difficult clients; count what a streamed token costs the front process."""
    ratios, statuses = [], []
    with served(1, "--threads", "1") as job:
        step_ms(job, tokens)
        for _ in range(rounds):
            alone = step_ms(job, tokens)
            with difficult_clients(job) as sent:
                time.sleep(_PAUSE_S)
                among = step_ms(job, tokens)
            ratios.append(among / alone)
            statuses += sent
    with served(1, "--threads", "1", "--exactness", "throughput", "--parallel", str(_STREAMS)) as job:
        costs = [front_us_a_token(job, tokens // 4) for _ in range(rounds)]
    found = {
        "step_ratio": [round(ratio, 4) for ratio in ratios],
        "large_bodies": {str(status): statuses.count(status) for status in sorted(set(statuses))},
        "front_us_a_token": [round(cost, 1) for cost in costs],
        "hosts": [host_facts()],
    }
    lines = [
        (
            f"step with {_SLOW} slow readers, {_HALF_OPEN} half-open connections and bodies of 8 MB over one without: "
            f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        ),
        f"CPU of the front process for an event, {_STREAMS} streams: {statistics.median(costs):.0f} us",
    ]
    show(found, lines, is_json)
