"""An engine that is used through a link: the same answers, the same errors, and nothing left when a side goes."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, cast

import httpx
import pytest

from mpispec.core.effects import Origin
from mpispec.core.ids import Pos, Token
from mpispec.core.messages import Sampling, Score
from mpispec.front.alone import Alone
from mpispec.front.host import EngineHost
from mpispec.front.link import FrontError, Link
from mpispec.front.local_socket import listen
from mpispec.front.messages import (
    Door,
    Ended,
    Hello,
    Interrupt,
    Message,
    News,
    Open,
    Progressed,
    Refuse,
    Serve,
    Served,
    Submit,
    Told,
    decode,
    encode,
)
from mpispec.front.program import Gone, expect
from mpispec.front.remote import RemoteEngine
from mpispec.runtime.engine import EngineFacts, EngineStopped, Generation, Listener, Progress
from mpispec.runtime.text_promise import TextPromise
from mpispec.serve.http.address import Access, bind
from mpispec.serve.text.completion import written
from mpispec.serve.text.service import Manner
from tests.unit.serve_fake import DEADLINE, ByteVocabulary, FakeEngine, connected, make_service

pytestmark = pytest.mark.unit

SAMPLING = Sampling(temperature=0.25, logit_bias=((Token(3), -1.5),), grammar="start: /a/")
PROGRESS = Progress(
    (5, 6),
    "length",
    2.5,
    (Origin(1), Origin(0, (Token(7), Token(8)))),
    (Score(Pos(3), Token(5), -0.5, ((Token(5), -0.5), (Token(9), -1.25))),),
)


class Joined:
    """A fake engine, its host and an engine at the other end of the link; `failure` is what the host ended with."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.engine = FakeEngine()
        self.link = Link(theirs)
        self.host = EngineHost(cast(Any, self.engine), Link(ours))
        self.remote = RemoteEngine()
        self.failure: FrontError | None = None
        self.orders: SimpleQueue[Message] = SimpleQueue()
        """What was no answer."""
        self.hosting = threading.Thread(target=self._run, args=[ours])
        self.hosting.start()
        messages = self.link.messages()
        self.remote.attach(self.link, expect(messages, Hello))
        self.listening = threading.Thread(target=self._listen, args=[messages])
        self.listening.start()

    def _run(self, ours: socket.socket) -> None:
        try:
            self.host.run()
        except FrontError as error:
            self.failure = error
        ours.shutdown(socket.SHUT_RDWR)

    def _listen(self, messages: Iterator[Message]) -> None:
        for message in messages:
            if isinstance(message, (Progressed, Told)):
                self.remote.take(message)
            else:
                self.orders.put(message)
        self.remote.lose()


@contextmanager
def joined() -> Iterator[Joined]:
    """Join them, and see that all threads end."""
    both = Joined()
    try:
        yield both
    finally:
        both.engine.join()
        both.link.close()
        both.hosting.join(DEADLINE)
        both.listening.join(DEADLINE)
        assert not both.hosting.is_alive()
        assert not both.listening.is_alive()


def test_the_far_engine_answers_as_the_near_one() -> None:
    generation = Generation(tuple(b"hello"), 40, Sampling(temperature=0.5, seed=2**64 - 1))
    with joined() as both:
        far = written(both.remote, ByteVocabulary(), generation)
        near = written(both.engine, ByteVocabulary(), generation)
        assert far == near
        assert far.text == "You said: hello"
        assert both.engine.generations == [generation, generation]


def test_http_works_over_a_link() -> None:
    with joined() as both:
        service = make_service(cast(Any, both.remote))
        with connected(both.engine, service) as client:
            assert client.get("/health").json()["status"] == "ok"
            ranks = client.get("/stats").json()["ranks"]
            assert ranks == [{"rank": rank, **each} for rank, each in both.engine.ranks().items()]
            answer = client.post("/v1/completions", json={"prompt": "hello"}).json()
            assert answer["choices"][0]["text"] == "You said: hello"
            assert answer["mpispec"]["speculation"]["acceptance_rate"] == 0.75


def test_what_cannot_be_run_is_refused_on_this_side() -> None:
    with joined() as both:
        with pytest.raises(ValueError, match="The prompt has a token id outside the vocabulary"):
            both.remote.submit(Generation((1000,), 1), lambda progress: None)
        with pytest.raises(ValueError, match="There is no strategy"):
            both.remote.submit(Generation((1,), 1, strategy="best"), lambda progress: None)
        assert both.engine.generations == []


def test_a_request_is_withdrawn_over_there() -> None:
    heard: SimpleQueue[Progress] = SimpleQueue()
    with joined() as both:
        request = both.remote.submit(Generation(tuple(b"wait"), 40), heard.put)
        while heard.get(timeout=DEADLINE).tokens[-1:] != (ord("t"),):
            pass
        both.remote.withdraw(request)
        assert heard.get(timeout=DEADLINE).finish == "cancelled"
        both.engine.await_withdrawn(1)
        assert both.remote.wait_until_idle(DEADLINE)


def test_another_default_strategy_is_known_on_both_sides() -> None:
    with joined() as both:
        assert both.remote.default_strategy == "pipeinfer"
        both.remote.default_strategy = "sync"
        assert both.remote.stats()["requests"] == 0  # by then the message before it has arrived
        assert (both.remote.default_strategy, both.engine.default_strategy) == ("sync", "sync")


class Recorder:
    """An engine and a link in one: asked for `count` requests, it keeps the listeners, and what is to be sent."""

    facts = EngineFacts(512, 258, ("plain",), ("none",), TextPromise())
    default_strategy = "plain"
    default_drafter = "none"

    def __init__(self, count: int) -> None:
        self.listeners: list[Listener] = []
        self.due: list[Callable[[], Message]] = []
        self._count = count

    def messages(self) -> Iterator[Message]:
        yield from (Submit(key, Generation((1,), 5)) for key in range(self._count))
        yield Ended()

    def send(self, message: Message) -> None:
        assert isinstance(message, Hello)

    def send_later(self, make: Callable[[], Message]) -> None:
        self.due.append(make)

    def submit(self, generation: Generation, listener: Listener) -> int:
        self.listeners.append(listener)
        return len(self.listeners)

    def sent(self) -> list[int]:
        """Return the keys of the next message."""
        message = self.due.pop(0)()
        assert isinstance(message, Progressed)
        return [news.key for news in message.news]


def test_a_step_is_one_message_of_bounded_size() -> None:
    both = Recorder(300)
    EngineHost(cast(Any, both), cast(Any, both)).run()
    for _ in range(2):
        for listener in both.listeners:
            listener(Progress((1,), None, 0.0))
        assert len(both.due) == 1
        assert both.sent() + both.sent() == list(range(300))
        assert not both.due


def test_orders_of_rank_0_arrive() -> None:
    with joined() as both:
        both.host.interrupt()
        both.host.refuse()
        assert [both.orders.get(timeout=DEADLINE) for _ in range(2)] == [Interrupt(), Refuse()]


def test_open_requests_end_when_rank_0_goes() -> None:
    heard: SimpleQueue[Progress] = SimpleQueue()
    with joined() as both:
        both.remote.submit(Generation(tuple(b"wait"), 40), heard.put)
        heard.get(timeout=DEADLINE)
        both.remote.lose()
        while (last := heard.get(timeout=DEADLINE)).finish is None:
            pass
        assert last.finish == "cancelled"
        assert not both.remote.is_running
        with pytest.raises(EngineStopped):
            both.remote.submit(Generation((1,), 1), lambda progress: None)
        with pytest.raises(EngineStopped):
            both.remote.stats()
        both.engine.stop()


def test_what_is_asked_after_the_end_of_the_engine_gets_503() -> None:
    with joined() as both, connected(both.engine, make_service(cast(Any, both.remote))) as client:
        both.remote.lose()
        for answer in (client.get("/stats"), client.get("/metrics"), client.post("/completions", json={"prompt": "x"})):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_stopped")
            assert int(answer.headers["Retry-After"]) > 0
        assert client.get("/health").status_code == 503
        both.engine.stop()


def test_rank_0_is_told_why_a_front_process_goes() -> None:
    with joined() as both:
        both.link.send(Ended())
        both.hosting.join(DEADLINE)
        assert both.failure is None
    with joined() as both:
        both.link.send(Ended("There is no vocabulary; name another model."))
        both.hosting.join(DEADLINE)
        assert str(both.failure) == "There is no vocabulary; name another model."
    with joined() as both:
        both.link.close()
        both.hosting.join(DEADLINE)
        assert "The front process (chat and HTTP) has gone" in str(both.failure)


@pytest.mark.parametrize(
    ("frame", "word"),
    [
        (struct.pack("<I", 1 << 30), "bytes"),
        (struct.pack("<I", 3) + b"\xc1ab", "do not understand each other"),
        (struct.pack("<I", len(encode(Refuse()))) + encode(Refuse()), "of its own kind"),
    ],
)
def test_what_is_no_message_ends_the_link(frame: bytes, word: str) -> None:
    ours, theirs = socket.socketpair()
    engine = FakeEngine()
    theirs.sendall(frame)
    with pytest.raises(FrontError, match=word):
        EngineHost(cast(Any, engine), Link(ours)).run()
    theirs.close()
    engine.join()


def test_messages_keep_their_values() -> None:
    served = Served(Path("/models/a.gguf"), "a", Manner(Sampling(seed=3), seed=7), names={"depth": [1, None]})
    access = Access(frozenset({"key", "other"}), ("http://localhost:3000",))
    for message in (
        Serve(served),
        Open(Door(access, 0.0, has_repl=True)),
        Submit(1, Generation((1, 2), 3, SAMPLING, "sync", "ngram", stop_token_ids=(4,))),
        Progressed((News(1, PROGRESS, {"timing": {"ttft_s": None}}), News(2, PROGRESS, {}))),
        Told(2, {0: 1.5, 1: 2.5}),
    ):
        assert decode(encode(message)) == message


def test_before_there_is_an_engine_requests_are_told_so(tmp_path: Path) -> None:
    alone = Alone(Door(), bind("127.0.0.1", 0), listen(tmp_path / "front.sock"))
    thread = threading.Thread(target=alone.run)
    thread.start()
    try:
        with httpx.Client(base_url=alone.url, timeout=DEADLINE, trust_env=False) as client:
            health = client.get("/health")
            chat, message = client.post("/v1/chat/completions"), client.post("/v1/messages")
            stranger = client.get("/health", headers={"Host": "evil.example"})
        assert [each.status_code for each in (health, chat, message)] == [503] * 3
        assert all(int(each.headers["Retry-After"]) > 0 for each in (health, chat, message))
        assert health.json() == {"status": "no engine yet"}
        assert chat.json()["error"]["code"] == "no_engine"
        assert message.json()["error"]["type"] == "overloaded_error"
        assert stranger.status_code == 403
    finally:
        alone.end()
        thread.join(DEADLINE)
    assert not thread.is_alive()


def test_a_job_that_never_begins_is_no_error() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    link = Link(theirs)
    with pytest.raises(Gone):
        expect(link.messages(), Hello)
    link.close()
