"""Broken requests en masse: each is answered in form, the server goes on, and its memory stays as it is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from tests.hostile import Failure, attack, broken_json, drawn, hostile_names, storm, wrong_fields
from tests.one_answer import answering

pytestmark = pytest.mark.unit

CHAT = "/v1/chat/completions"
SECONDS = 60.0
MIB = 1 << 20
ERROR = b'{"error": {"message": "x", "type": "server_error", "param": null, "code": null}}'
WARM = 300
"""Requests after which a server has met everything once."""


@contextmanager
def alone() -> Iterator[tuple[str, psutil.Process]]:
    """Start a server in a process of its own; yields its address and the process."""
    program = Path(__file__).with_name("serve_alone.py")
    with subprocess.Popen(
        [sys.executable, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield process.stdout.readline().strip(), psutil.Process(process.pid)
        finally:
            process.stdin.close()
            process.wait(SECONDS)


def ask(url: str, **fields: object) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": "hi"}], **fields}
    return httpx.post(f"{url}{CHAT}", json=body, timeout=SECONDS, trust_env=False)


def is_let_in(url: str) -> bool:
    try:
        return ask(url).status_code == 200
    except httpx.TransportError:  # beyond twice as many there is not even an answer
        return False


def check_lives(url: str) -> None:
    assert ask(url).json()["choices"][0]["message"]["content"] == "All is well."
    assert httpx.get(f"{url}/health", timeout=SECONDS, trust_env=False).json()["status"] == "ok"


@pytest.mark.parametrize(
    ("count", "growth_mib"),
    [(600, 24), pytest.param(10_000, 32, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])],
)
def test_a_server_outlives_what_strangers_send(count: int, growth_mib: int) -> None:
    with alone() as (url, process):
        check_lives(url)
        storm(url, range(WARM))
        before = process.memory_info().rss
        found = storm(url, range(WARM, count))
        check_lives(url)
        growth = process.memory_info().rss - before
        assert growth < growth_mib * MIB, f"{growth / MIB:.1f} MiB more"
        assert process.num_fds() < 64 + 64, "connections leak"
    assert found[200] > 0
    assert found[400] > (count - WARM) / 4
    assert found[404] + found[405] > 0


@pytest.mark.parametrize(("status", "body"), [(500, ERROR), (400, b"Bad Request"), (404, b'{"detail": "Not Found"}')])
def test_a_server_that_does_worse_is_noticed(status: int, body: bytes) -> None:
    """Failures, and answers that are not in form, whatever the request; so the test above can fail."""
    with answering(status, body) as url:
        for kind in (wrong_fields, broken_json, hostile_names):
            seed = next(seed for seed in range(1000) if drawn(seed) is kind)
            with pytest.raises(Failure, match=f"seed {seed}, {kind.__name__}"):
                attack(url, seed)


def test_a_hostile_template_costs_its_time_and_no_more() -> None:
    with alone() as (url, _):
        refused = ask(url, chat_template_kwargs={"bomb": True})
        assert refused.status_code == 400
        assert "more than 2 s" in refused.json()["error"]["message"]
        check_lives(url)


def test_slow_clients_lock_nobody_out() -> None:
    """Twice as many connections as there is room for, all in the midst of a head, are told so or cut off."""
    with alone() as (url, _), ExitStack() as stack:
        import socket

        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        held = [stack.enter_context(socket.create_connection(address, SECONDS)) for _ in range(128)]
        for connection in held:
            connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: lo")
        while not is_let_in(url):
            pass
        check_lives(url)
