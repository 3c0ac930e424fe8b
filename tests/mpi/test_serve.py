"""`mpirun -np N mpispec serve`: a chat on standard input and an HTTP server, at the same time, until asked to end."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from tests.launch import is_openmpi
from tests.mpi.program import MPISPEC, Program

pytestmark = pytest.mark.mpi

QUESTION = "What is the capital of France? Answer with one word."
LONG = "Tell me a very long story about a dragon."
SECONDS = 60.0


@contextmanager
def serving(n: int, *options: str) -> Iterator[tuple[Program, httpx.Client]]:
    """Start the program on `n` ranks (0: without mpirun), greedy by default, and wait until it serves."""
    argv = [*MPISPEC, "serve", "--port", "0", "--threads", "1", "--temperature", "0", *options]
    with Program(n, argv) as program:
        url = program.wait_for(r"serving \S+ on (http://[\d.:]+)\n", "stderr")[1]
        if "--no-repl" not in options:
            program.wait_for(r"\n> $")
        with httpx.Client(base_url=url, timeout=SECONDS) as client:
            yield program, client


def say(program: Program, line: str) -> str:
    """Type a line at the prompt; return what comes before the next prompt."""
    return program.wait_for(r"(.*?)\n> $", after=program.type(line))[1]


def chat(client: httpx.Client, text: str) -> str:
    """Ask over HTTP with a stream; return the answer."""
    body = {"messages": [{"role": "user", "content": text}], "stream": True, "max_tokens": 48}
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200
        events = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    return "".join(json.loads(event)["choices"][0]["delta"].get("content", "") for event in events)


def quit_in_order(program: Program) -> None:
    """Type /quit and expect nothing but the end."""
    before = program.stderr
    program.type("/quit")
    assert program.wait(20.0) == 0, program.stderr
    program.assert_ended()
    assert program.stderr == before


@pytest.mark.parametrize("n", [1, 4, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 8))])
def test_chat_and_http_are_served_at_once(n: int) -> None:
    with serving(n) as (program, client):
        answer = say(program, QUESTION)
        assert "Paris" in answer
        assert chat(client, QUESTION) == answer
        start = program.type(LONG)
        with ThreadPoolExecutor(2) as pool:
            both = list(pool.map(lambda text: chat(client, text), [QUESTION, "Count to five."]))
        assert both[0] == answer
        assert both[1]
        program.wait_for(r"\n> $", after=start)
        quit_in_order(program)
        ranks = re.findall(r"^(\d+) +\S+ +\S+", program.stderr, re.MULTILINE)
        assert ranks == [str(rank) for rank in range(max(n, 1))]


def test_chat_commands_change_the_settings() -> None:
    with serving(4) as (program, _):
        assert "/temperature" in say(program, "/help")
        assert re.fullmatch(r"strategy \w+ \(of .*plain, sync, synctree, pipeinfer.*\)", say(program, "/strategy"))
        answers = set()
        for strategy in ("plain", "sync", "pipeinfer"):
            assert say(program, f"/strategy {strategy}").startswith(f"strategy {strategy} ")
            assert say(program, "/temperature 0.9") == "temperature 0.9"
            assert say(program, "/seed 5") == "seed 5"
            assert say(program, "/reset") == "The conversation is forgotten."
            answers.add(say(program, "Name a colour."))
        assert len(answers) == 1, "the strategy has changed the text"
        assert say(program, "/seed 6") == "seed 6"
        say(program, "/reset")
        assert say(program, "Name a colour.") not in answers
        assert "requests: 4" in say(program, "/stats")
        assert "There is no command /bogus" in say(program, "/bogus")
        quit_in_order(program)


def begin_story(program: Program) -> int:
    """Ask for a long answer and wait for its first words; return where it begins."""
    start = program.type(LONG)
    program.wait_for(r"\w+ \w+ \w+", after=start)
    return start


@pytest.mark.skipif(is_openmpi(), reason="prterun ends the job at the first Ctrl-C")
def test_interrupts_stop_an_answer_and_then_the_job_under_mpirun() -> None:
    with serving(4) as (program, client):
        start = begin_story(program)
        program.interrupt()
        program.wait_for(r"\n\(stopped\)\n> $", after=start)
        hint = "mpispec: mpirun ends the program at the next Ctrl-C; Ctrl-\\ stops an answer as often as you like.\n"
        program.wait_for(re.escape(hint) + "$", "stderr")  # by another pipe than what was waited for
        for _ in range(2):
            start = begin_story(program)
            program.interrupt(signal.SIGQUIT)
            program.wait_for(r"\n\(stopped\)\n> $", after=start)
        assert "Paris" in chat(client, QUESTION)
        begin_story(program)
        program.interrupt()
        program.assert_ended()
        assert "Traceback" not in program.stderr


def test_interrupts_stop_answers_and_then_the_program_without_mpirun() -> None:
    with serving(0) as (program, _):
        for _ in range(2):
            start = begin_story(program)
            program.interrupt()
            program.wait_for(r"\n\(stopped\)\n> $", after=start)
        start = len(program.stdout)
        say(program, "/reset")
        program.interrupt()
        program.wait_for("Ctrl-C again, or /quit, ends the program.\n> ", after=start)
        program.interrupt()
        assert program.assert_ended() == 0


@pytest.mark.parametrize("n", [0, 2])
@pytest.mark.skipif(is_openmpi(), reason="prterun ends the job at the first Ctrl-C")
def test_a_server_without_a_chat_ends_at_an_interrupt(n: int) -> None:
    with serving(n, "--no-repl") as (program, client):
        health = client.get("/health").json()
        assert health == {
            "status": "ok",
            "is_exact": True,
            "exactness": "that of the model alone, whatever the other requests",
            "mode": "exact",
        }
        program.interrupt()
        assert program.assert_ended() == 0
        assert "Traceback" not in program.stderr


def test_the_end_of_the_input_leaves_the_server() -> None:
    with serving(2) as (program, client):
        program.type(QUESTION)
        program.end_input()
        program.wait_for("Paris")
        assert "Paris" in chat(client, QUESTION)
