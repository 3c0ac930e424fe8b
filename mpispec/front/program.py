"""What runs in the front process: HTTP and chat over an engine at the other end of a link."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator
from socket import socket
from typing import TypeVar

from mpispec.front.link import FrontError, Link
from mpispec.front.messages import Door, Ended, Hello, Interrupt, Message, Progressed, Refuse, Served, Told
from mpispec.front.remote import RemoteEngine
from mpispec.runtime.process import complain
from mpispec.serve.http.server import Closing, Server
from mpispec.serve.terminal.editor import open_entries
from mpispec.serve.terminal.repl import COMMANDS, Repl
from mpispec.serve.terminal.screen import Screen
from mpispec.serve.text.arrivals import arrivals
from mpispec.serve.text.opening import open_template, open_vocabulary
from mpispec.serve.text.prompt import Prompts
from mpispec.serve.text.service import Service

_STANDARD_INPUT = 0
Kind = TypeVar("Kind", bound=Message)


class Gone(Exception):
    """The other end has closed the link."""


def expect(messages: Iterator[Message], kind: type[Kind]) -> Kind:
    """Return the next message. Raises Gone, or FrontError where it is of another kind."""
    message = next(messages, None)
    if message is None:
        raise Gone
    if not isinstance(message, kind):
        raise FrontError(f"Rank 0 sent {message} where its front process expected {kind.__name__}.")
    return message


def follow(
    link: Link,
    server: Server,
    engine: RemoteEngine,
    on_interrupt: Callable[[], None],
    on_refuse: Callable[[], None],
) -> None:
    """Take what rank 0 says from now on, until it has gone. Raises FrontError where it says what it cannot mean.

    The loop of the server does it while it runs: tokens come one by one where steps are small, and a thread in between
    would cost more than the loop does. `on_interrupt` and `on_refuse` must return at once.
    """
    failures: list[Exception] = []

    def take(message: Message) -> None:
        match message:
            case Progressed() | Told():
                engine.take(message)
            case Interrupt():
                on_interrupt()
            case Refuse():
                on_refuse()
            case _:
                raise FrontError(f"Rank 0 sent its front process a message of its own kind, {message}.")

    def read() -> bool:
        try:
            messages = link.arrived()
            for message in messages or ():
                take(message)
        except Exception as error:
            failures.append(error)
        return messages is not None and not failures

    server.attend(link.fileno(), lambda: arrivals().during(read))
    for failure in failures:
        raise failure
    for message in link.messages():
        take(message)


def make_service(engine: RemoteEngine, served: Served) -> Service:
    """Return what is served of a model. Raises ModelError."""
    vocabulary = open_vocabulary(served.path)
    prompts = Prompts(vocabulary, open_template(vocabulary, served.template), served.names)
    return Service(engine, vocabulary, prompts, served.name, served.manner, served.greeting, served.aliases)


def open_repl(service: Service) -> Repl:
    """Return the chat on standard input."""
    screen = Screen(sys.stdout)
    return Repl(service, open_entries(_STANDARD_INPUT, screen, COMMANDS), screen)


class Front:
    """Chat and HTTP as long as rank 0 is there.

    Serves until `/quit`, Ctrl-C at an idle prompt, Ctrl-D at a terminal, or until rank 0 asks for the end. The end of
    an input that is no terminal leaves the HTTP server running: under nohup there is no input at all.
    """

    def __init__(self, door: Door, service: Service, engine: RemoteEngine, listener: socket) -> None:
        self._service = service
        self._engine = engine
        self._ended = threading.Event()
        self._server = Server(service, listener, door.access, door.ping_s, door.log_form)
        self._repl = open_repl(service) if door.has_repl else None
        self._closing = Closing(self._server, engine, door.grace_s, [self._end])
        self._interrupted: Callable[[], None] = self._ended.set if self._repl is None else self._repl.interrupt

    def run(self, link: Link, hello: Hello) -> None:
        """Serve to the end, and tell rank 0 of it."""
        self._engine.attach(link, hello)
        self._server.start()
        threading.Thread(target=self._follow, args=[link], name="rank 0", daemon=True).start()
        announce(self._service, self._server.url)
        try:
            if self._repl is not None and (self._repl.run() != "eof" or os.isatty(_STANDARD_INPUT)):
                return
            self._interrupted = self._ended.set
            self._ended.wait()
        finally:
            self._closing.wait()
            self._server.stop()
            link.send(Ended())
            link.close()

    def _follow(self, link: Link) -> None:
        follow(link, self._server, self._engine, self._interrupt, self._closing.ask)
        self._engine.lose()
        self._end()

    def _interrupt(self) -> None:
        self._interrupted()  # another one when the chat is over

    def _end(self) -> None:
        self._ended.set()
        if self._repl is not None:
            self._repl.end()


def announce(service: Service, url: str) -> None:
    """Tell the user where to find the model, now that all is there that stays."""
    # A look through it for garbage takes 37 ms, in which no stream goes on, and there was one for every 17,000 tokens.
    gc.collect()
    gc.freeze()
    complain(f"answers are drawn with {service.manner.describe()}")
    complain(f"serving {service.model} on {url}")
