"""`mpispec front`: an HTTP server that jobs connect to and that outlives them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.mpi.program import MPISPEC, Program
from tests.mpi.test_serve import QUESTION, SECONDS, chat
from tests.mpi.test_serve_end import SERVED, ask_to_end, events_of

pytestmark = pytest.mark.mpi


@contextmanager
def fronting(path: Path) -> Iterator[Program]:
    """Start a front process at a socket."""
    with Program(0, [*MPISPEC, "front", "--socket", str(path), "--port", "0"]) as front:
        front.wait_for("waiting on http", "stderr")
        yield front


def job(path: Path, n: int) -> Program:
    """Start a job that connects to it."""
    return Program(n, [*MPISPEC, "serve", "--front", str(path), "--threads", "1", "--temperature", "0"])


def test_a_front_process_outlives_its_jobs(tmp_path: Path) -> None:
    path = tmp_path / "front.sock"
    with fronting(path) as front:
        answers = []
        for n in (2, 0):
            with job(path, n) as program:
                front.wait_for("an engine has come", "stderr", after=len(front.stderr) if answers else 0)
                url = front.wait_for(r"serving \S+ on (http://[\d.:]+)\n", "stderr")[1]
                with httpx.Client(base_url=url, timeout=SECONDS) as client:
                    answers.append(chat(client, QUESTION))
                    with client.stream("POST", "/v1/chat/completions", json=SERVED) as answer:
                        events = events_of(answer)
                        next(events)
                        ask_to_end(program, "rank 0" if n else "itself")
                        assert list(events).pop() == "[DONE]"
                    assert program.assert_ended() == 0
                    front.wait_for("the engine has gone", "stderr")
                    refused = client.post("/v1/chat/completions", json={**SERVED, "stream": False})
                    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_stopped")
        assert answers[0] == answers[1]
        assert "Paris" in answers[0]


def test_a_job_ends_in_order_with_its_front_process(tmp_path: Path) -> None:
    path = tmp_path / "front.sock"
    with fronting(path) as front, job(path, 2) as program:
        front.wait_for("an engine has come", "stderr")
        front.process.terminate()
        assert front.wait() == 0
        assert program.assert_ended() == 0
        assert not path.exists()


def test_a_job_without_its_front_process_says_so(tmp_path: Path) -> None:
    with job(tmp_path / "nowhere.sock", 2) as program:
        assert program.wait() == 2
        assert "No front process is at" in program.stderr
        assert "mpispec front --socket" in program.stderr
