"""Rank 0's side: an engine at the service of a front process."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from mpispec.front.link import FrontError, Link
from mpispec.front.messages import (
    Ask,
    Choose,
    Ended,
    Hello,
    Interrupt,
    Message,
    Progressed,
    Refuse,
    Stop,
    Submit,
    Told,
    Withdraw,
)
from mpispec.runtime.engine import Engine, EngineStopped, Listener, Progress


class EngineHost:
    """Does what a front process asks of an engine."""

    def __init__(self, engine: Engine, link: Link) -> None:
        self._engine = engine
        self._link = link
        self._requests: dict[int, int] = {}
        """Open requests of the engine by their keys in the front process."""
        self._guard = threading.Lock()
        """Held while a request gets its number there, which its first word may outrun."""

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
            self._link.send(Progressed(asked.key, Progress((), "cancelled", 0.0), {}))

    def _listener(self, key: int) -> Listener:
        """Return what hands tokens on; the driver calls it between two steps, so it does next to nothing."""

        def listen(progress: Progress) -> None:
            self._link.send_later(partial(self._progressed, key, progress))

        return listen

    def _progressed(self, key: int, progress: Progress) -> Message:
        report = {}
        if progress.finish is not None:
            with self._guard:
                report = self._engine.report(self._requests.pop(key))
        return Progressed(key, progress, report)

    def _tell(self, asked: Ask) -> None:
        engine = self._engine
        value: dict[Any, Any] = engine.stats() if asked.what == "stats" else engine.ranks()
        self._link.send(Told(asked.key, value))
