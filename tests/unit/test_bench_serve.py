"""`mpispec bench serve` as an ordinary client: of our own server, of others that count less, and of some that break."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner, Result
from serve_fake import FakeEngine, serving

from mpispec.bench.errors import BenchError
from mpispec.bench.prompts import Prompts, read_text
from mpispec.cli import main
from mpispec.load import Load, planned

pytestmark = pytest.mark.unit

FEW = ("--requests", "6", "--prompt-words", "3-6", "--answer-tokens", "8-20")


def bench(url: str, *flags: str) -> Result:
    return CliRunner().invoke(main, ["bench", "serve", "--url", url, "--timeout", "20", *FEW, *flags])


def measured(url: str, *flags: str) -> dict[str, Any]:
    done = bench(url, "--json", *flags)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def event(**fields: Any) -> str:
    return f"data: {json.dumps(fields)}\n\n"


def words(*texts: str) -> str:
    return "".join(event(choices=[{"index": 0, "delta": {"content": text}}]) for text in texts)


FINISH = event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
DONE = "data: [DONE]\n\n"


@contextmanager
def rival(answer: Callable[[int], str], status: int = 200) -> Iterator[str]:
    """Serve in OpenAI's form whatever `answer` says to the n-th request, then close the connection."""
    asked: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, json.dumps({"data": [{"id": "other", "owned_by": "someone"}]}))

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            asked.append(len(asked))
            self._send(status, answer(asked[-1]))

        def _send(self, code: int, body: str) -> None:
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            """Keep silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("flags", [(), ("--completions",), ("--rate", "500"), ("--concurrency", "1")])
def test_every_request_is_answered_and_counted(flags: tuple[str, ...]) -> None:
    engine = FakeEngine()
    with serving(engine) as url:
        found = measured(url, *flags)
    assert found["requests"] == {"ok": 6, "cancelled": 0, "failed": 0}
    assert found["model"] == "toy"
    limits = [generation.max_tokens for generation in engine.generations]
    assert found["tokens"] == sum(limits)
    assert found["prompt_tokens"] == sum(len(generation.prompt) for generation in engine.generations)
    assert {generation.sampling.temperature for generation in engine.generations} == {0.0}
    assert sorted(generation.sampling.seed for generation in engine.generations) == list(range(6))
    assert 0 < found["ttft_s"]["p50"] <= found["ttft_s"]["most"] <= found["latency_s"]["most"]
    assert 0 < found["fairness"] <= 1


def test_an_mpispec_server_tells_what_it_did() -> None:
    with serving(FakeEngine()) as url:
        found = measured(url)
    # The engine of these tests dispatches a run of two rows for each token and accepts three of four draft tokens.
    assert (found["runs"], found["rows_per_run"]) == (found["tokens"], 2.0)
    assert found["acceptance_rate"] == 0.75
    assert list(found["idle"]) == ["rank 0", "rank 1"]


def test_clients_that_hang_up_are_counted_apart(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("forever")
    flags = ("--completions", "--cancel", "1", "--answer-tokens", "400", "--text", str(tmp_path / "text"))
    with serving(FakeEngine()) as url:
        found = measured(url, *flags)
        shown = bench(url, *flags).output
    # Of 400 tokens the engine of these tests makes 200 chunks; who would hang up later has the whole answer.
    drawn = [each.cancel_after or 0 for each in planned(Load(6, (3, 6), (400, 400), cancel_share=1.0))]
    early = [after for after in drawn if after <= 200]
    assert 0 < len(early) < 6
    assert found["requests"] == {"ok": 6 - len(early), "cancelled": len(early), "failed": 0}
    assert found["tokens"] == sum(early) + 400 * (6 - len(early))
    assert "Of cancelled answers the chunks were counted." in shown


def test_prompts_share_their_beginning_and_nothing_else() -> None:
    engine = FakeEngine()
    with serving(engine) as url:
        measured(url, "--prefix-words", "7", "--body", '{"strategy": "plain", "top_k": 3}')
    prompts = [bytes(token for token in generation.prompt if token < 256) for generation in engine.generations]
    start = b"system\nThe harbour town had one library, anduser\n"
    assert all(prompt.startswith(start) for prompt in prompts)
    assert len({prompt.removeprefix(start) for prompt in prompts}) == 6
    assert {(generation.strategy, generation.sampling.top_k) for generation in engine.generations} == {("plain", 3)}


def test_a_seed_repeats_the_prompts() -> None:
    asked = []
    for seed in ("1", "1", "2"):
        engine = FakeEngine()
        with serving(engine) as url:
            measured(url, "--seed", seed, "--concurrency", "1")
        asked.append([(generation.prompt, generation.max_tokens) for generation in engine.generations])
    assert asked[0] == asked[1] != asked[2]


def test_a_server_without_token_counts_has_its_chunks_counted() -> None:
    with rival(lambda _: words("a", "b", "c") + FINISH + DONE) as url:
        done = bench(url)
        found = measured(url)
    assert found["tokens"] == 18 and found["prompt_tokens"] is None
    assert "6 answers came without token counts; their chunks were counted instead." in done.output
    assert "The server does not tell its acceptance rate" in done.output
    assert "idle" not in found and "runs" not in found


def test_tokens_are_those_of_the_server() -> None:
    usage = event(choices=[], usage={"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14})
    thoughts = event(choices=[{"index": 0, "delta": {"reasoning_content": "Hm"}}])
    with rival(lambda _: ": a comment\n\n" + thoughts + words("a") + FINISH + usage + DONE) as url:
        found = measured(url)
    assert found["tokens"] == 54 and found["prompt_tokens"] == 30
    assert found["itl_ms"]["p50"] == 0.0  # 6 of the 8 gaps of each: these tokens came with others


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (words("a", "b"), 200, "the answer broke off"),
        (words("a") + event(error={"message": "The engine has stopped."}), 200, "The engine has stopped."),
        ("data: {]\n\n", 200, "the answer is not in OpenAI's form"),
        ("data: [1]\n\n", 200, "the answer is not in OpenAI's form"),
        (json.dumps({"error": {"message": "Too many."}}), 503, "HTTP 503: Too many."),
        ("not json", 500, "HTTP 500: not json"),
    ],
)
def test_what_fails_is_counted_with_its_reason(body: str, status: int, reason: str) -> None:
    with rival(lambda _: body, status) as url:
        done = bench(url)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert f"mpispec: None of 6 requests was answered; most often: {reason.rstrip('.')}.\n" in done.stderr


def test_failures_do_not_hide_what_was_answered() -> None:
    with rival(lambda number: words("a") + (FINISH + DONE if number % 2 else "")) as url:
        done = bench(url)
        found = measured(url)
    assert found["requests"] == {"ok": 3, "cancelled": 0, "failed": 3}
    assert found["failures"] == {"the answer broke off": 3}
    assert "3 failed: the answer broke off" in done.output


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    png = tmp_path / "load.png"
    with rival(lambda number: words("a", "b") + (FINISH + DONE if number % 3 else "")) as url:
        done = bench(url, "--png", str(png))
    assert done.exit_code == 0, done.output
    assert png.read_bytes().startswith(b"\x89PNG")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--url", f"http://127.0.0.1:{free_port()}"), "(no connection); start a server, or check --url."),
        (("--url", "nonsense"), "--url nonsense is no address of a server; write http://HOST:PORT."),
        (("--rate", "1", "--concurrency", "2"), "--concurrency by clients that wait; give one."),
        (("--body", "[1]"), "--body must be a JSON object"),
        (("--body", "{"), "--body is not JSON"),
        (("--text", "absent.txt"), "Prompts cannot be read from absent.txt (No such file or directory)"),
        (("--png", "absent/a.png"), "The picture cannot be written to absent/a.png"),
    ],
)
def test_what_cannot_be_measured_is_refused(flags: tuple[str, ...], sentence: str) -> None:
    done = bench("http://127.0.0.1:9", *flags)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.count("mpispec: ") == 1 and sentence in done.stderr


def test_who_has_no_models_and_who_wants_a_key_are_told_apart() -> None:
    with serving(FakeEngine()) as url:
        assert "has no list of models at /v1/models" in bench(f"{url}/health").stderr
    with serving(FakeEngine(), key="secret") as url:
        assert "asks for a key; give it with --api-key." in bench(url).stderr
        assert measured(f"{url}/v1", "--api-key", "secret")["requests"]["ok"] == 6


def test_a_text_without_words_makes_no_prompts(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="holds no word"):
        Prompts(" \n", 0, 0)
    latin = tmp_path / "latin"
    latin.write_bytes("größer".encode("latin-1"))
    with pytest.raises(BenchError, match="is not UTF-8 text"):
        read_text(latin)


def test_prompts_are_as_long_as_asked_for() -> None:
    prompts = Prompts(read_text(None), 40, 5)
    assert len(prompts.prefix.split()) == 40
    assert len(prompts.prompt(3, 5000).split()) == 5000
    assert prompts.prompt(3, 9) == " ".join(prompts.prompt(3, 5000).split()[:9])
