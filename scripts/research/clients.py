"""What difficult clients do to a step, and what a streamed token costs the front process.

python scripts/research clients [--rounds 3] [--tokens 200] [--json]

One rank with one thread answers one request, alone, with difficult clients, and with a program that only counts, in
turn. The clients are 100 that read slowly, 50 that never end their request's head, and one that sends bodies of 8 MB
one after the other; their load is on this host too. The program that counts, at the lowest priority, tells what any
work at all on another core does to a step here. Then 64 streams at once, short ones and long ones, with the CPU time of
the front process counted: what a long one takes more is that of its further tokens. Last the floor: a `send` of as
many bytes as an event, to a thread that waits for them.
"""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
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
_SENDS, _SEND_PAUSE_S = 500, 0.002
_EVENT_BYTES = 300


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


@contextmanager
def busy_neighbour() -> Iterator[None]:
    """Have a program that counts run at the lowest priority."""
    counting = subprocess.Popen(["nice", "-n", "19", sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        counting.kill()
        counting.wait()


def send_us() -> float:
    """Return the CPU time of one `send` on loopback to a thread that waits for it."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as sender:
        reader, _ = listener.accept()
        with reader, ThreadPoolExecutor(1) as pool:
            reading = pool.submit(lambda: sum(len(part) for part in iter(lambda: reader.recv(4096), b"")))
            spent = 0.0
            for _ in range(_SENDS):
                time.sleep(_SEND_PAUSE_S)
                before = time.thread_time()
                sender.send(b"a" * _EVENT_BYTES)
                spent += time.thread_time() - before
            sender.shutdown(socket.SHUT_WR)
            reading.result()
    return spent / _SENDS * 1e6


def front_us(job: Served, tokens: int) -> tuple[float, int]:
    """Return the CPU time that the front process takes for many streams at once, and how many events they had.

    Without speculation each token is an event; else several that are accepted together share one.
    """
    body = {"prompt": _PROMPT, "max_tokens": tokens, "temperature": 0, "stream": True, "ignore_eos": True}
    body |= {"strategy": "plain", "cut_repeats": False}

    def read(client: httpx.Client) -> int:
        with client.stream("POST", f"{job.url}/v1/completions", json=body) as answer:
            return sum(line.startswith("data: {") for line in answer.iter_lines())

    with httpx.Client(timeout=_SECONDS, limits=httpx.Limits(max_connections=_STREAMS)) as client:
        before = cpu_seconds(job.front.pid)
        with ThreadPoolExecutor(_STREAMS) as pool:
            events = sum(pool.map(read, [client] * _STREAMS))
        return (cpu_seconds(job.front.pid) - before) * 1e6, events


def front_us_a_token(job: Served, tokens: int) -> tuple[float, float]:
    """Return the CPU time of the front process for a token of many streams, and for a request apart from its tokens."""
    short, few = front_us(job, max(1, tokens // 10))
    long, many = front_us(job, tokens)
    token = (long - short) / (many - few)
    return token, (short - few * token) / _STREAMS


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
    ratios, floors, statuses, bodies = [], [], [], []
    with served(1, "--threads", "1") as job:
        step_ms(job, tokens)
        for _ in range(rounds):
            alone = step_ms(job, tokens)
            with difficult_clients(job) as sent:
                time.sleep(_PAUSE_S)
                before, first = cpu_seconds(job.front.pid), len(sent)
                among = step_ms(job, tokens)
                bodies.append((cpu_seconds(job.front.pid) - before) / max(1, len(sent) - first))
            with busy_neighbour():
                beside = step_ms(job, tokens)
            ratios.append(among / alone)
            floors.append(beside / alone)
            statuses += sent
    with served(1, "--threads", "1", "--exactness", "throughput", "--parallel", str(_STREAMS)) as job:
        costs, requests = zip(*(front_us_a_token(job, tokens // 4) for _ in range(rounds)), strict=True)
    sends = [send_us() for _ in range(rounds)]
    found = {
        "step_ratio": [round(ratio, 4) for ratio in ratios],
        "step_ratio_neighbour": [round(ratio, 4) for ratio in floors],
        "large_bodies": {str(status): statuses.count(status) for status in sorted(set(statuses))},
        "front_s_a_large_body": [round(seconds, 4) for seconds in bodies],
        "front_us_a_token": [round(cost, 1) for cost in costs],
        "front_us_a_request": [round(cost, 1) for cost in requests],
        "send_us": [round(cost, 1) for cost in sends],
        "hosts": [host_facts()],
    }
    clients = f"{_SLOW} slow readers, {_HALF_OPEN} half-open connections and bodies of 8 MB"
    token, request, send = _spread(costs, 0), _spread(requests, 0), _spread(sends, 0)
    lines = [
        f"step with {clients} over one without: {_spread(ratios, 3)}",
        f"step with a busy neighbour over one without: {_spread(floors, 3)}",
        f"CPU of the front process for a large body: {_spread(bodies, 2)} s",
        f"CPU of the front process, {_STREAMS} streams: {token} us a token, {request} us a request",
        f"CPU of one `send` alone: {send} us",
    ]
    show(found, lines, is_json)


def _spread(values: Sequence[float], digits: int) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
