"""`mpispec top`: what it makes of a server's metrics, and what it says of servers that it cannot watch."""

from __future__ import annotations

import io
from pathlib import Path

import httpx
import pytest
import trustme
from click.testing import CliRunner, Result
from prometheus_client import CollectorRegistry, Counter, Histogram, Info, generate_latest
from rich.console import Console
from serve_fake import DEADLINE, FakeEngine, make_service, serving

from mpispec.commands import top as command
from mpispec.commands.top_frame import frame
from mpispec.commands.top_reading import Change, NoAnswer, Reading, Refused
from mpispec.serve.http.address import Access, bind
from mpispec.serve.http.server import Server
from mpispec.serve.http.tls import find_tls
from tests.one_answer import answering

pytestmark = pytest.mark.unit


def run(*argv: str) -> Result:
    return CliRunner().invoke(command.top, ["--once", *argv], env={"MPISPEC_API_KEY": None, "COLUMNS": "110"})


def drawn(change: Change, complaint: str = "") -> str:
    console = Console(file=io.StringIO(), width=110)
    with console.capture() as captured:
        console.print(frame("http://x", change, complaint))
    return captured.get()


def test_a_frame_shows_requests_cells_drafts_and_ranks() -> None:
    with serving(FakeEngine(), key="secret") as url:
        body = {"prompt": "forever", "max_tokens": 10}
        httpx.post(f"{url}/v1/completions", json=body, headers={"x-api-key": "secret"}, timeout=DEADLINE)
        done = run("--url", f"{url}/v1/", "--api-key", "secret")
    assert (done.exit_code, done.stderr) == (0, "")
    lines = [" ".join(line.strip("│ \n").split()) for line in done.stdout.splitlines()]
    assert any(line.startswith(f"mpispec top toy exact {url}") for line in lines)
    assert "running 0 of 1 waiting 0 ended length 1" in lines
    assert "tokens/s 5.0 prompt tokens/s 3.5 HTTP 200 1" in lines
    assert "cells ██······ 64 of 256 cached of prompts 0% preemptions 1" in lines
    assert "ngram 40.0 15.0 75% 75%" in lines
    assert "0 a head+stage 1 0-9 ███████████████····· 75% 500 B" in lines
    assert "1 b stage 2 10-19 █████··············· 25% 150 B" in lines
    assert any(line.startswith("first token") and " ms / " in line for line in lines)


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (404, b"", "has no /metrics; name a server that `mpispec serve` started"),
        (500, b"oops\n", "answers 500: 'oops"),
        (200, b"<html>", "is no metrics"),
        (200, b"vllm:num_requests_running 1.0\n", "not those of mpispec"),
    ],
)
def test_another_server_is_refused(status: int, body: bytes, sentence: str) -> None:
    with answering(status, body) as url:
        done = run("--url", url)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("mpispec: ")
    assert done.stderr.count("\n") == 1
    assert sentence in done.stderr


def test_a_server_that_cannot_be_asked_is_refused() -> None:
    with serving(FakeEngine(), key="secret") as url:
        for argv in ((), ("--api-key", "wrong")):
            assert "wants another key; give it with --api-key" in run("--url", url, *argv).stderr
    away = run("--url", url)
    assert (away.exit_code, away.stdout) == (2, "")
    assert "does not answer" in away.stderr
    assert "is mpispec serve running there?" in away.stderr
    for wrong in ("ftp://x", "127.0.0.1:8080", "http://x:port"):
        assert "write it as http://127.0.0.1:8080" in run("--url", wrong).stderr


def test_a_certificate_of_ones_own_is_trusted(tmp_path: Path) -> None:
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    issued = authority.issue_cert("localhost")
    names = [str(tmp_path / name) for name in ("authority", "certificate", "key")]
    authority.cert_pem.write_to_path(names[0])
    issued.cert_chain_pems[0].write_to_path(names[1])
    issued.private_key_pem.write_to_path(names[2])
    engine = FakeEngine()
    server = Server(make_service(engine), bind("127.0.0.1", 0), Access(tls=find_tls(*map(Path, names[1:]))))
    server.start()
    url = server.url.replace("127.0.0.1", "localhost")
    assert "CERTIFICATE_VERIFY_FAILED" in run("--url", url).stderr
    trusted = CliRunner().invoke(command.top, ["--once", "--url", url], env={"SSL_CERT_FILE": names[0]})
    assert (trusted.exit_code, trusted.stderr) == (0, "")
    engine.join()
    server.stop()


class Counted:
    """Metrics of a made-up server, which count as the test says."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        Info("mpispec:model", "", registry=registry)
        self._first = Histogram("mpispec:first_seconds", "", buckets=(1, 2, 4), registry=registry)
        self._work = {
            what: Counter(f"mpispec:rank_{what}_seconds", "", ("rank",), registry=registry) for what in ("busy", "idle")
        }
        self.tokens = Counter("mpispec:generation_tokens", "", registry=registry)

    def work(self, rank: str, busy: float, idle: float) -> None:
        self._work["busy"].labels(rank).inc(busy)
        self._work["idle"].labels(rank).inc(idle)

    def observe(self, *seconds: float) -> None:
        for each in seconds:
            self._first.observe(each)

    def read(self) -> Reading:
        return Reading.of(generate_latest(self._registry).decode())


def test_a_change_is_what_happened_between_two_looks() -> None:
    counted = Counted()
    counted.work("0", 1.0, 9.0)
    counted.tokens.inc(50)
    first = Change(counted.read())
    assert (first.rate("generation_tokens_total"), first.busy("0")) == (5.0, 0.1)
    counted.work("0", 2.0, 0.0)
    counted.work("1", 1.0, 1.0)
    counted.tokens.inc(50)
    second = first.followed_by(counted.read())
    assert (second.seconds, second.rate("generation_tokens_total"), second.busy("0")) == (2.0, 25.0, 1.0)
    assert second.busy("1") is None, "a rank that was silent before cannot be compared"
    assert second.busy("7") is None


def test_a_server_that_was_started_anew_is_seen_since_its_start() -> None:
    old, new = Counted(), Counted()
    old.work("0", 50.0, 50.0)
    new.work("0", 1.0, 3.0)
    assert Change(old.read()).followed_by(new.read()).busy("0") == 0.25


def test_quantiles_lie_between_the_bounds_of_a_bucket() -> None:
    counted = Counted()
    assert Change(counted.read()).quantile("first_seconds", 0.5) is None
    counted.observe(0.5, 1.5, 1.6, 3.0)
    first = Change(counted.read())
    assert first.quantile("first_seconds", 0.5) == 1.5
    assert first.quantile("first_seconds", 0.25) == 1.0
    assert first.quantile("first_seconds", 1.0) == 4.0
    assert first.followed_by(counted.read()).quantile("first_seconds", 0.5) == 1.5, "nothing new: since the start"
    counted.observe(3.0, 9.0)
    assert first.followed_by(counted.read()).quantile("first_seconds", 0.5) == 4.0
    assert first.followed_by(counted.read()).quantile("first_seconds", 1.0) == 4.0, "beyond the last bound"


class Script:
    """A server that is looked at: each look gives what the test says, the last one ends it."""

    def __init__(self, *looks: Reading | Exception | type[BaseException]) -> None:
        self._looks = iter(looks)

    def look(self) -> Reading:
        found = next(self._looks)
        if isinstance(found, Reading):
            return found
        raise found


def test_a_server_that_goes_away_and_comes_back_is_watched_on() -> None:
    counted = Counted()
    counted.work("0", 1.0, 1.0)
    one = counted.read()
    counted.work("0", 1.0, 0.0)
    script = Script(one, NoAnswer("It is away."), counted.read(), KeyboardInterrupt)
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=110, height=50)
    with pytest.raises(KeyboardInterrupt):
        command._show(script, console, "http://x", 0.0)  # type: ignore[arg-type]
    assert "It is away." in shown.getvalue()
    assert "of the last 1.0 s" in shown.getvalue().rpartition("It is away.")[2]


def test_a_server_that_wants_another_key_meanwhile_ends_it() -> None:
    script = Script(Counted().read(), Refused("No."))
    with pytest.raises(Refused):
        command._show(script, Console(file=io.StringIO(), force_terminal=True), "x", 0.0)  # type: ignore[arg-type]


def test_what_the_server_says_cannot_steer_the_terminal() -> None:
    model = 'mpispec:model_info{model_name="[red]\x1b[2J"} 1'
    rank = 'mpispec:rank_info{rank="0",host="[b]x",roles="",layers=""} 1'
    said = drawn(Change(Reading.of(f"{model}\n{rank}\n")), "[blue]away")
    assert "[red]" in said
    assert "[b]x" in said
    assert "[blue]away" in said
    assert "\x1b" not in said
