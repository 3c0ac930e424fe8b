"""A server that is asked to end, and a rank that stands still for a while."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator

import httpx
import psutil
import pytest

from tests.launch import is_openmpi
from tests.mpi.program import MPISPEC, Program
from tests.mpi.test_serve import LONG, begin_story, serving

pytestmark = pytest.mark.mpi

TOKENS = 120
ENDING = "no new requests; open ones have"
SERVED = {
    "messages": [{"role": "user", "content": LONG}],
    "stream": True,
    "max_tokens": TOKENS,
    "temperature": 0,
    "drafter": "ngram",
}


def events_of(answer: httpx.Response) -> Iterator[str]:
    """Yield what a stream says, event by event."""
    return (line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: "))


def ask_to_end(program: Program, whom: str) -> None:
    """Send the signal that asks for the end to mpirun, to rank 0 or to the program itself."""
    if whom == "mpirun":
        # Open MPI's mpirun answers SIGTERM by killing its ranks, and passes this one on.
        program.process.send_signal(signal.SIGUSR1 if is_openmpi() else signal.SIGTERM)
    elif whom == "rank 0":
        program.rank(0).terminate()
    else:
        program.process.terminate()


@pytest.mark.parametrize(("n", "whom"), [(0, "itself"), (2, "mpirun"), (2, "rank 0")])
def test_a_server_ends_in_order(n: int, whom: str) -> None:
    """The open answer comes to its end, no other is begun, and the exit code is 0."""
    with (
        serving(n, "--no-repl") as (program, client),
        client.stream("POST", "/v1/chat/completions", json=SERVED) as answer,
    ):
        events = events_of(answer)
        next(events)
        ask_to_end(program, whom)
        program.wait_for(ENDING, "stderr")
        said = list(events)
        assert said.pop() == "[DONE]"
        assert json.loads(said[-1])["choices"][0]["finish_reason"] in ("length", "stop")
        assert program.wait() == 0
        with pytest.raises(httpx.TransportError):
            client.get("/health")
        program.assert_ended()
        assert "Traceback" not in program.stderr


def test_an_answer_that_outlasts_the_grace_period_ends_with_an_error() -> None:
    with serving(2, "--no-repl", "--grace", "0") as (program, client):
        with client.stream("POST", "/v1/chat/completions", json={**SERVED, "max_tokens": 2000}) as answer:
            events = events_of(answer)
            next(events)
            program.rank(0).terminate()
            (last,) = [event for event in events if "error" in event]
        assert json.loads(last)["error"]["code"] == "engine_stopped"
        assert program.assert_ended() == 0


@pytest.mark.parametrize("is_idle", [True, False])
def test_the_chat_ends_too(is_idle: bool) -> None:
    with serving(2) as (program, _):
        if not is_idle:
            begin_story(program)
        program.rank(0).terminate()
        assert program.wait() == 0
        program.assert_ended()
        assert "Traceback" not in program.stderr


@pytest.mark.skipif(is_openmpi(), reason="prterun kills the ranks within a second; asked by SIGUSR1 it ends in order")
def test_a_job_that_is_still_loading_ends_at_once() -> None:
    with Program(2, [*MPISPEC, "serve", "--no-repl", "--port", "0"]) as program:
        program.wait_for("rank +host", "stderr")
        program.process.terminate()
        program.assert_ended()


@pytest.mark.parametrize("n", [0, 2])
def test_a_front_process_that_dies_ends_the_job_with_a_sentence(n: int) -> None:
    with serving(n, "--no-repl") as (program, client):
        with client.stream("POST", "/v1/chat/completions", json=SERVED) as answer:
            next(events_of(answer))
            program.front().kill()
            program.wait_for("The front process .* has gone", "stderr")
        assert program.assert_ended() != 0
        assert "Traceback" not in program.stderr


def test_a_front_process_does_not_outlive_its_rank() -> None:
    with serving(2, "--no-repl") as (program, client):
        with client.stream("POST", "/v1/chat/completions", json=SERVED) as answer:
            events = events_of(answer)
            next(events)
            program.rank(0).kill()
            # mpirun may kill its children at once, or leave the front process time to tell the client.
            with contextlib.suppress(httpx.TransportError):
                assert any("engine_stopped" in event for event in events)
        assert program.assert_ended() != 0


def test_a_rank_that_stands_still_and_goes_on_changes_no_text() -> None:
    with serving(4, "--no-repl") as (program, client):
        expected = text_of(client, None)
        for number in range(4):
            assert text_of(client, program.rank(number)) == expected
        program.rank(0).terminate()
        assert program.assert_ended() == 0


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_rank_that_stands_still_for_good_ends_the_answer_with_an_error() -> None:
    with (
        serving(2, "--no-repl") as (program, client),
        client.stream("POST", "/v1/chat/completions", json=SERVED, timeout=120) as answer,
    ):
        events = events_of(answer)
        next(events)
        stopped = program.rank(1)
        stopped.suspend()
        assert any("engine_stopped" in event for event in events)
        program.wait_for("nothing comes from rank 1 on", "stderr", 60)
        with contextlib.suppress(psutil.NoSuchProcess):  # killed by the launcher
            stopped.resume()
        assert program.assert_ended() != 0


def text_of(client: httpx.Client, stopped: psutil.Process | None) -> str:
    """Return an answer; stop a rank after the first words and let it go on when its neighbours have nothing to do."""
    with client.stream("POST", "/v1/chat/completions", json=SERVED) as answer:
        events = events_of(answer)
        said = [next(events) for _ in range(4)]
        if stopped is not None:
            stopped.suspend()
            try:
                stall(stopped)
            finally:
                stopped.resume()
        said += events
    assert said.pop() == "[DONE]"
    return "".join(json.loads(event)["choices"][0]["delta"].get("content", "") for event in said)


def stall(stopped: psutil.Process) -> None:
    """Wait until no other rank of the job computes any more, because they wait for this one."""
    others = [each for each in stopped.parent().children(recursive=True) if each.pid != stopped.pid]
    while stopped.status() != psutil.STATUS_STOPPED:
        pass
    spent = -1.0
    while (now := sum(sum(each.cpu_times()[:2]) for each in others)) > spent + 0.02:
        spent = now
        psutil.cpu_percent(0.3)  # looks for so long
