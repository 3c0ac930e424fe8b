"""A front process that is started by itself and outlives jobs: each connects to it by a local socket."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace

from mpispec.front.link import FrontError, Link
from mpispec.front.messages import Door, Ended, Hello, Interrupt, Message, Progressed, Refuse, Serve, Served, Told
from mpispec.front.program import Gone, announce, expect, make_service
from mpispec.front.remote import RemoteEngine
from mpispec.models.errors import ModelError
from mpispec.serve.server import Closing, Server


class Alone:
    """An HTTP server whose engine may come and go; requests that come meanwhile are answered with 503.

    Until the first engine has said what model it has, clients wait.
    """

    def __init__(self, door: Door, web: socket.socket, engines: socket.socket) -> None:
        """`web` is where HTTP comes in, `engines` what `local_socket.listen` returned."""
        self._door = door
        self._web = web
        self._engines = engines
        self._engine = RemoteEngine()
        self._served: Served | None = None
        self._server: Server | None = None
        self._closing: Closing | None = None
        self._ended = threading.Event()

    def run(self) -> None:
        """Serve until `end` is called."""
        threading.Thread(target=self._take_engines, name="engines", daemon=True).start()
        self._ended.wait()
        if self._closing is not None and self._server is not None:
            self._closing.wait()
            self._server.stop()
        self._engine.leave()

    def end(self) -> None:
        """Let open requests end, then stop. Safe in a signal handler."""
        if self._closing is not None:
            self._closing.ask()
        else:
            self._ended.set()

    def _take_engines(self) -> None:
        while True:
            connection, _ = self._engines.accept()
            link = Link(connection)
            messages = link.messages()
            try:
                served, hello = expect(messages, Serve).served, expect(messages, Hello)
                self._serve(served, hello.facts.promise.parallel)
                self._engine.attach(link, hello)
                _say("an engine has come.")
                self._listen(messages, link)
            except Gone:
                pass
            except (FrontError, ModelError) as error:
                _say(str(error))
                link.send(Ended(str(error)))
            self._engine.lose()
            link.close()
            _say("the engine has gone; requests are answered with 503 until there is one.")

    def _serve(self, served: Served, parallel: int) -> None:
        """Begin to serve the first engine's model; raises FrontError where a later one has another."""
        if self._served is None:
            service = make_service(self._engine, served)
            access = replace(self._door.access, most_open=parallel + self._door.access.most_open)
            self._server = Server(service, self._web, access, self._door.ping_s, self._door.log_form)
            self._closing = Closing(self._server, self._engine, self._door.grace_s, [self._ended.set])
            self._server.start()
            self._served = served
            announce(service, self._server.url)
        elif served.path != self._served.path:
            raise FrontError(
                f"This front process serves {self._served.path}, not {served.path}; start another one for that."
            )

    def _listen(self, messages: Iterator[Message], link: Link) -> None:
        for message in messages:
            match message:
                case Progressed() | Told():
                    self._engine.take(message)
                case Refuse():
                    self._engine.refuse()
                    threading.Thread(target=self._let_go, args=[link], daemon=True).start()
                case Interrupt():
                    link.send(Ended())
                case _:
                    raise FrontError(f"Rank 0 sent its front process a message of its own kind, {message}.")

    def _let_go(self, link: Link) -> None:
        """Tell an engine that is to end when its open requests have ended, or their time is up."""
        if not self._engine.wait_until_idle(self._door.grace_s):
            self._engine.stop()
        link.send(Ended())


def _say(sentence: str) -> None:
    sys.stderr.write(f"mpispec: {sentence}\n")
    sys.stderr.flush()
