"""`mpispec chat` against a real server: at a terminal, with a pipe, for one message; and against strange servers."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serve_fake import FakeEngine, serving
from test_serve_repl import Terminal, read

from mpispec.serve.terminal.entries import LineEntries
from mpispec.serve.terminal.remote import Failed, Place, Remote, RemoteTalk
from mpispec.serve.terminal.screen import Screen
from tests.launch import REPOSITORY
from tests.terminal import AtTerminal

pytestmark = pytest.mark.unit

CHAT = (sys.executable, "-m", "mpispec", "chat")
SECONDS = 60.0


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(context=300_000)


@pytest.fixture
def url(engine: FakeEngine) -> Iterator[str]:
    with serving(engine) as url:
        yield url


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"XDG_STATE_HOME": str(tmp_path)}


def messages(engine: FakeEngine) -> list[str]:
    prompts = [read(generation.prompt) for generation in engine.generations]
    return [prompt.removesuffix("||assistant\n").rpartition("|user\n")[2] for prompt in prompts]


def run(url: str, *options: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    """Run it with a pipe for input."""
    return subprocess.run(
        [*CHAT, "--url", url, *options],
        cwd=REPOSITORY,
        env={**os.environ, "MPISPEC_API_KEY": ""},
        input=typed,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def test_a_conversation_at_a_terminal(url: str, engine: FakeEngine, env: dict[str, str]) -> None:
    line = "".join(f"{number} " for number in range(1200))
    with AtTerminal([*CHAT, "--url", url], env) as program:
        before = program.settings
        program.wait_for(r"Talking to toy\.\nType a message, or /help\.\n>$")
        program.type("wait\r")
        program.wait_for("You said: wait$")
        program.type(f"{line}\rfor me\r")  # more than a terminal holds of a line
        program.type("\x03")
        program.wait_for(r"You said: for me\n17 tokens, 12\.5 t/s, acceptance rate 75%\n>$")
        assert messages(engine) == ["wait", line.strip(), "for me"]
        assert "assistant\nYou said: wait|" in read(engine.generations[1].prompt)
        answer = program.shown.partition("You said: wait")[2]
        assert answer.startswith("\n(stopped)\n"), "what was typed ahead broke into the answer"
        program.type("/quit\r")
        assert program.wait() == 0
        assert program.settings == before
        assert program.raw.rstrip().endswith(b"\x1b[?2004l")


def test_what_is_pasted_during_an_answer_is_one_message(url: str, engine: FakeEngine, env: dict[str, str]) -> None:
    with AtTerminal([*CHAT, "--url", url], env) as program:
        program.wait_for(">$")
        program.type("wait\r")
        program.wait_for("You said: wait$")
        assert program.raw.rfind(b"\x1b[?2004h") > program.raw.rfind(b"\x1b[?2004l"), "pasted blocks have no marks"
        program.type("\x1b[200~one\ntwo\x1b[201~\r\x03")
        program.wait_for("You said: one\ntwo\n")
        program.type("\x04")
        assert program.wait() == 0
    assert messages(engine) == ["wait", "one\ntwo"]


def test_piped_lines_are_messages_of_one_conversation(url: str, engine: FakeEngine) -> None:
    done = run(url, typed="hello\n/temperature 0.5\nthere\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "You said: hello\ntemperature 0.5\nYou said: there\n"
    assert read(engine.generations[1].prompt).startswith("|user\nhello||assistant\nYou said: hello|")
    assert engine.generations[1].sampling.temperature == 0.5


def test_a_whole_input_is_one_message(url: str, engine: FakeEngine) -> None:
    done = run(url, "-", "--system", "Be kind.", "--seed", "7", "--max-tokens", "20", typed="one\n\n/two\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "You said: one\n\n/two\n", "")
    (generation,) = engine.generations
    assert read(generation.prompt).startswith("|system\nBe kind.|")
    assert (generation.sampling.seed, generation.max_tokens) == (7, 20)


def test_one_message_gets_nothing_but_the_answer(url: str) -> None:
    done = run(url + "/v1/", "--once", "hello")
    assert (done.returncode, done.stdout, done.stderr) == (0, "You said: hello\n", "")


@pytest.mark.parametrize("options", [("--once", "hello"), ("-",), ()])
def test_a_server_that_is_not_there_is_one_sentence(options: tuple[str, ...]) -> None:
    done = run("http://127.0.0.1:9", *options, typed="hello")
    assert (done.returncode, done.stdout) == (2, "")
    sentence = "No server answers at http://127.0.0.1:9; start mpispec serve, or check --url."
    assert done.stderr == f"mpispec: {sentence}\n"


def test_refusals_of_the_server_end_a_pipe_and_not_a_conversation(url: str) -> None:
    done = run(url, "--model", "other", typed="hello\n")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "mpispec: This server has no model 'other'; it has 'toy'. Other names: serve --alias. (HTTP 404)\n"
    )
    screen = Terminal()
    talk = remote_talk(Place(url), "other", screen, b"hello\n/model toy\nagain\n/quit\n")
    assert talk.run() == "quit"
    assert "This server has no model 'other'" in screen.getvalue()
    assert "model toy (of toy)\n" in screen.getvalue()
    assert "You said: again\n" in screen.getvalue()


def test_a_key_is_wanted_and_known() -> None:
    with serving(FakeEngine(), key="secret") as url:
        done = run(url, "--once", "hello")
        assert done.stderr == f"mpispec: The server at {url} wants another key; give it with --api-key.\n"
        assert run(url, "--once", "hello", "--api-key", "secret").stdout == "You said: hello\n"


def remote_talk(
    place: Place, model: str, out: Terminal, typed: bytes, transport: httpx.MockTransport | None = None
) -> RemoteTalk:
    screen = Screen(out)
    return RemoteTalk(Remote(place, transport), LineEntries(io.BytesIO(typed), screen), screen, model, {})


def test_commands(url: str, engine: FakeEngine) -> None:
    typed = b"/system Be kind.\n/strategy sync\n/seed 7\n/temperature hot\nhi\n/system -\n/reset\n/stats\n/help\n"
    screen = Terminal()
    assert remote_talk(Place(url), "toy", screen, typed + b"yo\n/quit\n").run() == "quit"
    first, second = engine.generations
    assert read(first.prompt) == "|system\nBe kind.||user\nhi||assistant\n"
    assert (first.strategy, first.sampling.seed) == ("sync", 7)
    assert read(second.prompt) == "|user\nyo||assistant\n"
    shown = screen.getvalue()
    assert "The temperature is a number from 0 to 2.\n" in shown
    assert "requests: 1\n" in shown
    assert all(
        f"/{name}" in shown for name in ("help", "stats", "model", "system", "strategy", "seed", "reset", "quit")
    )


def events(*chunks: Any, done: bool = True) -> bytes:
    lines = [chunk if isinstance(chunk, str) else f"data: {json.dumps(chunk)}" for chunk in chunks]
    return "\n\n".join([*lines, "data: [DONE]" if done else "", ""]).encode()


def piece(**delta: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


END = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def other_server(content: bytes, status: int = 200) -> httpx.MockTransport:
    return httpx.MockTransport(lambda request: httpx.Response(status, content=content))


def answer_of(content: bytes, status: int = 200) -> tuple[str, str]:
    """Ask another server; return what was said and what was thought."""
    remote = Remote(Place("http://other"), other_server(content, status))
    answer = remote.ask({})
    thoughts: list[str] = []
    answer.on_thought = thoughts.append
    try:
        return "".join(answer), "".join(thoughts)
    finally:
        answer.withdraw()
        remote.close()


def test_servers_of_others_are_understood() -> None:
    usage = {"choices": [], "usage": {"completion_tokens": 3}}
    content = events(": ping", piece(role="assistant"), piece(reasoning="Hm."), piece(content="Hi"), END, usage)
    assert answer_of(content) == ("Hi", "Hm.")
    assert answer_of(content.replace(b"\n", b"\r\n").replace(b"data: ", b"data:")) == ("Hi", "Hm.")


@pytest.mark.parametrize(
    ("content", "status", "sentence"),
    [
        (events(piece(content="Hi"), done=False), 200, "The connection broke before the answer had ended"),
        (events("data: {"), 200, "sent what is no chunk of an answer"),
        (events("data: []"), 200, "sent what is no chunk of an answer"),
        (events({"error": {"message": "The engine has stopped."}}), 200, r"The engine has stopped\."),
        (b'{"error": {"message": "Too long."}}', 400, r"Too long\. \(HTTP 400\)"),
        (b'{"error": "No."}', 500, r"No\. \(HTTP 500\)"),
        (b"<html>Bad gateway</html>", 502, r"Bad gateway</html> \(HTTP 502\)"),
        (b"", 503, r"Service Unavailable \(HTTP 503\)"),
    ],
)
def test_what_goes_wrong_is_a_sentence(content: bytes, status: int, sentence: str) -> None:
    with pytest.raises(Failed, match=sentence):
        answer_of(content, status)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"<html>", "no server in OpenAI's form"), (b"[]", "no server"), (b"{}", "names no model")],
)
def test_what_is_no_server_of_that_form_is_named(content: bytes, sentence: str) -> None:
    remote = Remote(Place("http://other"), other_server(content))
    with pytest.raises(Failed, match=sentence):
        remote.models()
    remote.close()


def test_an_interrupt_before_the_first_word_is_not_lost(url: str, engine: FakeEngine) -> None:
    remote = Remote(Place(url))
    answer = remote.ask({"messages": [{"role": "user", "content": "hello"}], "stream": True})
    answer.interrupt()
    assert list(answer) == []
    answer.withdraw()
    assert "".join(remote.ask({"messages": [{"role": "user", "content": "hi"}], "stream": True})) == "You said: hi"
    remote.close()


def test_a_stopped_answer_is_withdrawn(url: str, engine: FakeEngine) -> None:
    remote = Remote(Place(url))
    answer = remote.ask({"messages": [{"role": "user", "content": "wait"}], "stream": True})
    said = ""
    for text in answer:
        said += text
        if said == "You said: wait":
            answer.interrupt()
    answer.withdraw()
    assert answer.written.finish is None
    engine.await_withdrawn(1)
    remote.close()
