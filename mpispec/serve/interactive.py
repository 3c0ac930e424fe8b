"""REPL and HTTP server over one engine: the application behind `mpispec serve`."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from mpispec.core.messages import Sampling
from mpispec.models.errors import ModelError
from mpispec.runtime.group import JobError
from mpispec.runtime.job import Session
from mpispec.serve.address import bind, find_key
from mpispec.serve.errors import ServeError
from mpispec.serve.repl import Repl
from mpispec.serve.server import Server
from mpispec.serve.service import ChatMessage, Service, Vocabulary


class Template(Protocol):
    """A chat template."""

    def render(self, messages: Sequence[ChatMessage], add_generation_prompt: bool = True) -> str: ...


def listen(host: str, port: int, api_key: str | None) -> Any:
    """Take the port before anything is loaded; JobError if it cannot be had."""
    try:
        find_key(host, api_key)
        return bind(host, port)
    except ServeError as error:
        raise JobError(str(error)) from error


def serve_until_stopped(
    session: Session,
    vocabulary: Vocabulary,
    template: Template,
    sampling: Sampling,
    listener: Any,
    api_key: str | None,
    has_repl: bool,
    on_interrupt: Callable[[Callable[[], None]], None],
) -> None:
    """Serve until `/quit`, the end of the input, Ctrl-C at an idle prompt, or a signal to end."""

    def render(messages: Sequence[ChatMessage]) -> str:
        try:
            return template.render(messages)
        except ModelError as error:
            raise ValueError(str(error)) from error

    service = Service(
        session.engine,
        vocabulary,
        render,
        session.setup.model.path.stem,
        sampling,
        alive=lambda: session.engine.is_running,
    )
    server = Server(service, listener, api_key)
    server.start()
    print(f"mpispec: serving {service.model} on {server.url}", file=sys.stderr, flush=True)
    try:
        if has_repl:
            repl = Repl(service, sys.stdin.buffer, sys.stdout)
            on_interrupt(repl.interrupt)
            repl.run()
        else:
            ended = threading.Event()
            on_interrupt(ended.set)
            ended.wait()
    finally:
        server.stop()
