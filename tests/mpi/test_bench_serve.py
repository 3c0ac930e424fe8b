"""`mpispec bench serve` against `mpirun -np 2 mpispec serve`: what every rank did, and a server that dies meanwhile."""

from __future__ import annotations

import json
import socket
import sys
from typing import Any

import pytest

from tests.mpi.program import MPISPEC, Program
from tests.mpi.test_serve import serving

pytestmark = pytest.mark.mpi

LOAD = ("--prompt-words", "5-30", "--answer-tokens", "8-24")


def bench(url: str, *options: str) -> Program:
    return Program(0, [*MPISPEC, "bench", "serve", "--url", url, *LOAD, *options])


def result(program: Program) -> dict[str, Any]:
    assert program.wait() == 0, program.stderr
    found: dict[str, Any] = json.loads(program.stdout)
    return found


def test_a_load_is_served_and_every_rank_tells_its_part() -> None:
    layout = ("--layout", "0:0-14,1:15-29", "--strategy", "pipeinfer", "--parallel", "2", "--no-repl")
    with serving(2, *layout) as (_, client):
        with bench(
            str(client.base_url), "--requests", "8", "--concurrency", "3", "--cancel", "0.4", "--json"
        ) as program:
            found = result(program)
        stats = client.get("/stats").json()
    assert found["requests"]["failed"] == 0
    assert found["requests"]["ok"] + found["requests"]["cancelled"] == 8
    assert list(found["idle"]) == ["rank 0", "rank 1"]
    assert all(0.0 < idle < 1.0 for idle in found["idle"].values())
    assert found["rows_per_run"] > 1.0  # prompts are read in longer runs
    assert 0 < found["runs"] <= stats["dispatched"]["runs"]
    assert stats["requests"] == 8


def test_a_server_that_dies_fails_what_was_under_way() -> None:
    with serving(0, "--no-repl") as (server, client):
        many = ("--requests", "40", "--concurrency", "2")
        with bench(str(client.base_url), *many) as program:
            program.wait_for("4 of 40 requests\n", "stderr")
            server.process.kill()
            code = program.wait()
    assert code == 0, "some were answered before"
    # Its front process outlives it by a moment, in which it can say so.
    assert "failed: no connection" in program.stdout or "The engine has stopped" in program.stdout
    assert "could not be asked at the end" in program.stdout


def loaded(port: int, *command: str) -> Program:
    """`scripts/research loaded`, which ends what it starts."""
    load = ["--url", f"http://127.0.0.1:{port}", "--load", " ".join(("--requests 4", *LOAD))]
    return Program(0, [sys.executable, "scripts/research", "loaded", *load, "--", *command])


def test_a_server_is_started_for_its_load_and_ended() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with loaded(port, *MPISPEC, "serve", "--no-repl", "--port", str(port)) as program:
        assert result(program)["requests"] == {"ok": 4, "cancelled": 0, "failed": 0}
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_a_server_that_does_not_start_is_quoted() -> None:
    with loaded(9, "sh", "-c", "echo no such model; exit 1") as program:
        assert program.wait() == 1
    assert program.stderr.strip().endswith("The server ended and said: no such model")
