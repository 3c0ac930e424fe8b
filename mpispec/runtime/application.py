"""The thread on rank 0 that uses the engine while the main thread drives it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from mpispec.runtime.head_engine import HeadEngine
from mpispec.runtime.setup import Setup
from mpispec.runtime.text_promise import TextPromise

T = TypeVar("T")


@dataclass(slots=True)
class Recording:
    """The text that the oracle knows; empty until a plain run has written it."""

    tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Session:
    """What an application on rank 0 works with."""

    engine: HeadEngine
    setup: Setup
    recording: Recording
    promise: TextPromise


class Application(Generic[T]):
    """The application's thread: when it returns or raises, the engine stops."""

    def __init__(self, application: Callable[[], T], stop: Callable[[], None]) -> None:
        self._application = application
        self._stop = stop
        self._error: BaseException | None = None
        self._value: T
        self._thread = threading.Thread(target=self._run, name="application", daemon=True)
        self._thread.start()

    def result(self) -> T:
        """Wait for the thread; return what the application returned or raise what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._value

    def _run(self) -> None:
        try:
            self._value = self._application()
        except BaseException as error:  # raised again by `result`
            self._error = error
        finally:
            self._stop()
