"""An engine of another process, for chat and HTTP the same as one of their own."""

from __future__ import annotations

import itertools
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future
from typing import Any, Literal

from mpispec.front.link import Link
from mpispec.front.messages import Ask, Choose, Ended, Hello, Message, News, Progressed, Stop, Submit, Told, Withdraw
from mpispec.runtime.engine import (
    MOST_OPEN,
    MOST_REPORTS,
    EngineFacts,
    EngineStopped,
    Generation,
    Listener,
    Progress,
)
from mpispec.runtime.text_promise import TextPromise

_LONGEST_ANSWER_S = 30.0
"""Bound of a question to rank 0 (law 7); a step of a large model takes seconds."""


class RemoteEngine:
    """A `serve.engine.Engine` at the other end of a link; it takes nothing until one is attached.

    `take` what comes from there; listeners are called by it.
    """

    def __init__(self) -> None:
        self.facts = EngineFacts(0, 0, (), (), TextPromise())
        self.default_drafter = "none"
        self._strategy = "plain"
        self._link: Link | None = None
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        """Notified when the last open request has ended."""
        self._keys = itertools.count()
        self._listeners: dict[int, Listener] = {}
        self._reports: OrderedDict[int, dict[str, Any]] = OrderedDict()
        self._questions: dict[int, Future[dict[Any, Any]]] = {}
        self._is_running = False

    def attach(self, link: Link, hello: Hello) -> None:
        """Pass requests on to the engine behind `link` from now on."""
        with self._lock:
            self.facts = hello.facts
            self.default_drafter = hello.drafter
            self._strategy = hello.strategy
            self._link = link
            self._is_running = True

    @property
    def is_running(self) -> bool:
        """See `runtime.engine.Engine`, as all below."""
        return self._is_running

    @property
    def default_strategy(self) -> str:
        """May be assigned."""
        return self._strategy

    @default_strategy.setter
    def default_strategy(self, strategy: str) -> None:
        self._strategy = strategy
        self._send(Choose(strategy))

    def submit(self, generation: Generation, listener: Listener) -> int:
        """Queue a generation; the same errors as there, found on this side."""
        self.facts.check(generation)
        with self._lock:
            self._check_running()
            if len(self._listeners) >= MOST_OPEN:
                raise ValueError(f"{MOST_OPEN} requests are open already; wait until some have ended.")
            key = next(self._keys)
            self._listeners[key] = listener
            self._send(Submit(key, generation))
        return key

    def withdraw(self, request: int) -> None:
        """End a request early."""
        with self._lock:
            if request in self._listeners:
                self._send(Withdraw(request))

    def report(self, request: int) -> dict[str, Any]:
        """Return what came with the last word on a request."""
        return self._reports.get(request, {})

    def stats(self) -> dict[str, Any]:
        """Ask for totals; raises EngineStopped where no answer comes."""
        return self._ask("stats")

    def ranks(self) -> dict[int, dict[str, Any]]:
        """Ask for what the ranks do; raises EngineStopped where no answer comes."""
        return self._ask("ranks")

    def stop(self) -> None:
        """End the job."""
        self.refuse()
        self._send(Stop())

    def refuse(self) -> None:
        """Take no new requests."""
        with self._lock:
            self._is_running = False

    def wait_until_idle(self, seconds: float) -> bool:
        """Wait at most so long for the end of all open requests; return whether it has come."""
        with self._lock:
            return self._idle.wait_for(lambda: not self._listeners, seconds)

    def leave(self) -> None:
        """Tell rank 0, if there is one, that it is not needed any more."""
        self._send(Ended())
        if self._link is not None:
            self._link.close()

    def take(self, message: Progressed | Told) -> None:
        """Take a message of rank 0."""
        if isinstance(message, Told):
            with self._lock:
                question = self._questions.pop(message.key, None)
            if question is not None:
                question.set_result(message.value)
            return
        with self._lock:
            heard = [(self._listeners.get(news.key), news.progress) for news in message.news]
            for news in message.news:
                if news.progress.finish is not None:
                    self._end(news)
        for listener, progress in heard:
            if listener is not None:
                listener(progress)

    def _end(self, news: News) -> None:
        self._listeners.pop(news.key, None)
        if not self._listeners:
            self._idle.notify_all()
        self._reports[news.key] = news.report
        while len(self._reports) > MOST_REPORTS:
            self._reports.popitem(last=False)

    def lose(self) -> None:
        """End every open request because rank 0 has gone."""
        with self._lock:
            self._is_running = False
            listeners, self._listeners = self._listeners, {}
            self._idle.notify_all()
            questions, self._questions = self._questions, {}
        for listener in listeners.values():
            listener(Progress((), "cancelled", time.monotonic()))
        for question in questions.values():
            question.set_exception(_stopped())

    def _ask(self, what: Literal["stats", "ranks"]) -> dict[Any, Any]:
        answer: Future[dict[Any, Any]] = Future()
        with self._lock:
            self._check_running()
            key = next(self._keys)
            self._questions[key] = answer
            self._send(Ask(key, what))
        try:
            return answer.result(_LONGEST_ANSWER_S)
        except TimeoutError:
            with self._lock:
                self._questions.pop(key, None)
            raise EngineStopped("Rank 0 does not answer; look at its host.") from None

    def _send(self, message: Message) -> None:
        if self._link is not None:
            self._link.send(message)

    def _check_running(self) -> None:
        if not self._is_running:
            raise _stopped()


def _stopped() -> EngineStopped:
    return EngineStopped("The engine has stopped; start mpispec again.")
