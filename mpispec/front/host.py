"""Rank 0's side: an engine at the service of a front process."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mpispec.front.link import FrontError, Link
from mpispec.front.messages import (
    Ask,
    Choose,
    Ended,
    Hello,
    Interrupt,
    Message,
    News,
    Progressed,
    Refuse,
    Stop,
    Submit,
    Told,
    Withdraw,
)
from mpispec.runtime.engine import Engine, EngineStopped, Listener, Progress

_MOST_NEWS = 256
"""Of one message, whose size is bounded."""


class EngineHost:
    """Does what a front process asks of an engine."""

    def __init__(self, engine: Engine, link: Link) -> None:
        self._engine = engine
        self._link = link
        self._requests: dict[int, int] = {}
        """Open requests of the engine by their keys in the front process."""
        self._guard = threading.Lock()
        """Held while a request gets its number there, which its first word may outrun."""
        self._news: deque[tuple[int, Progress]] = deque()
        """Has not been sent, by key."""
        self._is_due = False
        """Whether the link will ask for news."""

    def run(self) -> None:
        """Serve the front process until it has had enough.

        Raises FrontError where it ends without a word, or cannot serve this model.
        """
        engine, link = self._engine, self._link
        link.send(Hello(engine.facts, engine.default_strategy, engine.default_drafter))
        # A question may have to wait for other ranks; requests must not wait for it.
        with ThreadPoolExecutor(1, "questions") as questions:
            for message in link.messages():
                match message:
                    case Submit():
                        self._submit(message)
                    case Withdraw(key):
                        if (request := self._requests.get(key)) is not None:
                            engine.withdraw(request)
                    case Ask():
                        questions.submit(self._tell, message)
                    case Choose(strategy):
                        engine.default_strategy = strategy
                    case Stop():
                        engine.stop()
                    case Ended(complaint):
                        if complaint:
                            raise FrontError(complaint)
                        return
                    case _:
                        raise FrontError(f"The front process sent rank 0 a message of its own kind, {message}.")
        raise FrontError("The front process (chat and HTTP) has gone; what it said last stands above.")

    def interrupt(self) -> None:
        """Pass Ctrl-C on. Safe in a signal handler."""
        self._link.send(Interrupt())

    def refuse(self) -> None:
        """Have no new requests taken, and the engine stopped in time. Safe in a signal handler."""
        self._link.send(Refuse())

    def _submit(self, asked: Submit) -> None:
        try:
            with self._guard:
                self._requests[asked.key] = self._engine.submit(asked.generation, self._listener(asked.key))
        except EngineStopped:
            self._link.send(Progressed((News(asked.key, Progress((), "cancelled", 0.0), {}),)))

    def _listener(self, key: int) -> Listener:
        """Return what hands tokens on; the driver calls it between two steps, so it does next to nothing."""

        def listen(progress: Progress) -> None:
            self._news.append((key, progress))
            self._announce()

        return listen

    def _announce(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._link.send_later(self._progressed)

    def _progressed(self) -> Message:
        self._is_due = False  # before the look: what comes after it is announced again
        news = [self._news.popleft() for _ in range(min(len(self._news), _MOST_NEWS))]
        if self._news:
            self._announce()
        return Progressed(tuple(self._told(*each) for each in news))

    def _told(self, key: int, progress: Progress) -> News:
        report = {}
        if progress.finish is not None:
            with self._guard:
                report = self._engine.report(self._requests.pop(key))
        return News(key, progress, report)

    def _tell(self, asked: Ask) -> None:
        engine = self._engine
        value: dict[Any, Any] = engine.stats() if asked.what == "stats" else engine.ranks()
        self._link.send(Told(asked.key, value))
