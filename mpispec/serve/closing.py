"""The end of a server in order: no new requests, time for open ones, then the end for all."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence

from mpispec.runtime.engine import Engine
from mpispec.serve.server import Server

_MARGIN_S = 5.0
"""Within this time a server has told everybody that the engine has stopped."""


class Closing:
    """Ends a server when somebody asks for it; `ask` it from any thread or a signal handler."""

    def __init__(self, server: Server, engine: Engine, grace_s: float, also: Sequence[Callable[[], None]]) -> None:
        """`grace_s` is the time that open requests get; `also` is called when the server takes no more of them."""
        self._server = server
        self._engine = engine
        self._grace_s = grace_s
        self._also = also
        self._asked = threading.Event()
        self._ended = threading.Event()
        threading.Thread(target=self._run, name="closing", daemon=True).start()

    def ask(self) -> None:
        """Begin the end; returns at once."""
        self._asked.set()

    def wait(self) -> None:
        """Wait until open requests have ended, if the end was asked for; then the server is at its end too."""
        if self._asked.is_set():
            self._server.join(self._grace_s + _MARGIN_S)
        self._ended.set()
        self._asked.set()

    def _run(self) -> None:
        self._asked.wait()
        if self._ended.is_set():
            return
        sys.stderr.write(f"mpispec: no new requests; open ones have {self._grace_s:g} s, then the program ends.\n")
        sys.stderr.flush()
        self._server.refuse()
        for tell in self._also:
            tell()
        if not self._ended.wait(self._grace_s):
            self._engine.stop()
