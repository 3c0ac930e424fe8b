"""Who reads for a front process: the loop of its server while it runs, then a thread; what goes wrong is told."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, cast

import httpx
import pytest
from serve_fake import DEADLINE, FakeEngine, make_service

from mpispec.front.host import EngineHost
from mpispec.front.link import FrontError, Link
from mpispec.front.messages import Hello, Message
from mpispec.front.program import expect, follow
from mpispec.front.remote import RemoteEngine
from mpispec.runtime.engine import Generation, Progress
from mpispec.serve.http.address import Access, bind
from mpispec.serve.http.server import Server

pytestmark = pytest.mark.unit


class Followed:
    """A server whose engine is at the other end of a link."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.engine = FakeEngine()
        self.host = EngineHost(cast(Any, self.engine), Link(ours))
        threading.Thread(target=self._host, daemon=True).start()
        self.link = Link(theirs)
        self.remote = RemoteEngine()
        self.remote.attach(self.link, expect(self.link.messages(), Hello))
        self.server = Server(make_service(cast(Any, self.remote)), bind("127.0.0.1", 0), Access())
        self.told: SimpleQueue[str] = SimpleQueue()
        """What rank 0 ordered, and how the following ended."""
        self.server.start()
        threading.Thread(target=self._follow, name="follower", daemon=True).start()

    def say(self, message: Message) -> None:
        """Have rank 0 send a message."""
        self.host._link.send(message)

    def answering_thread(self) -> str:
        """Return the name of the thread on which an answer's last token comes."""
        heard: SimpleQueue[str] = SimpleQueue()

        def listen(progress: Progress) -> None:
            if progress.finish is not None:
                heard.put(threading.current_thread().name)

        self.remote.submit(Generation(tuple(b"hello"), 40), listen)
        return heard.get(timeout=DEADLINE)

    def _host(self) -> None:
        with pytest.raises(FrontError, match="has gone"):
            self.host.run()

    def _follow(self) -> None:
        try:
            orders = (lambda: self.told.put("interrupt"), lambda: self.told.put("refuse"))
            follow(self.link, self.server, self.remote, *orders)
            self.told.put("end")
        except FrontError as error:
            self.told.put(str(error))


@contextmanager
def followed() -> Iterator[Followed]:
    """Serve, and end all of it."""
    both = Followed()
    try:
        yield both
    finally:
        both.server.stop()
        both.link.close()
        both.engine.join()


def test_the_loop_reads_while_the_server_runs_and_then_a_thread() -> None:
    with followed() as both:
        answer = httpx.post(f"{both.server.url}/v1/completions", json={"prompt": "hello"}, trust_env=False)
        assert answer.json()["choices"][0]["text"] == "You said: hello"
        assert both.answering_thread() == "http"
        both.host.interrupt()
        assert both.told.get(timeout=DEADLINE) == "interrupt"
        both.server.stop()
        assert both.answering_thread() == "follower"
        both.host.refuse()
        assert both.told.get(timeout=DEADLINE) == "refuse"


def test_a_server_that_has_ended_attends_to_nobody() -> None:
    with followed() as both:
        both.server.stop()
        both.server.attend(both.link.fileno(), lambda: pytest.fail("read"))


def test_the_end_of_rank_0_ends_it() -> None:
    with followed() as both:
        both.host._link.close()
        assert both.told.get(timeout=DEADLINE) == "end"


def test_a_message_of_a_wrong_kind_is_told() -> None:
    with followed() as both:
        both.say(Hello(both.engine.facts, "plain", "none"))
        assert "of its own kind" in both.told.get(timeout=DEADLINE)
