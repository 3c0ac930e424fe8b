"""A front process that is started by itself and outlives jobs: each connects to it by a local socket."""

from __future__ import annotations

import socket
import threading
from dataclasses import replace

from mpispec.front.link import FrontError, Link
from mpispec.front.messages import Door, Ended, Hello, Serve, Served
from mpispec.front.program import Gone, announce, expect, follow, make_service
from mpispec.front.remote import RemoteEngine
from mpispec.models.errors import ModelError
from mpispec.runtime.process import complain
from mpispec.serve.http.server import Closing, Server


class Alone:
    """An HTTP server whose engine may come and go; requests that come meanwhile are answered with 503."""

    def __init__(self, door: Door, web: socket.socket, engines: socket.socket) -> None:
        """`web` is where HTTP comes in, `engines` what `local_socket.listen` returned."""
        self._door = door
        self._engines = engines
        self._engine = RemoteEngine()
        self._served: Served | None = None
        self._server = Server(None, web, door.access, door.ping_s, door.log_form)
        self._ended = threading.Event()
        self._closing = Closing(self._server, self._engine, door.grace_s, [self._ended.set])

    @property
    def url(self) -> str:
        """Where clients reach it."""
        return self._server.url

    def run(self) -> None:
        """Serve until `end` is called."""
        self._server.start()
        threading.Thread(target=self._take_engines, name="engines", daemon=True).start()
        self._ended.wait()
        self._closing.wait()
        self._server.stop()
        self._engine.leave()

    def end(self) -> None:
        """Let open requests end, then stop. Safe in a signal handler."""
        self._closing.ask()

    def _take_engines(self) -> None:
        while True:
            connection, _ = self._engines.accept()
            self._take_engine(Link(connection))

    def _take_engine(self, link: Link) -> None:
        """Serve one engine until it has gone."""
        messages = link.messages()
        try:
            served, hello = expect(messages, Serve).served, expect(messages, Hello)
            self._check(served)
            self._engine.attach(link, hello)
            if self._served is None:
                self._serve(served, hello.facts.promise.parallel)
            complain("an engine has come.")
            follow(link, self._server, self._engine, lambda: link.send(Ended()), lambda: self._refuse(link))
        except Gone:
            pass
        except (FrontError, ModelError) as error:
            complain(str(error))
            link.send(Ended(str(error)))
        self._engine.lose()
        link.close()
        complain("the engine has gone; requests are answered with 503 until there is one.")

    def _check(self, served: Served) -> None:
        """Raise FrontError where a later engine has another model than the first."""
        if self._served is not None and served.path != self._served.path:
            raise FrontError(
                f"This front process serves {self._served.path}, not {served.path}; start another one for that."
            )

    def _serve(self, served: Served, parallel: int) -> None:
        """Begin to serve the first engine's model. Raises ModelError."""
        service = make_service(self._engine, served)
        access = replace(self._door.access, most_open=parallel + self._door.access.most_open)
        self._server.serve(service, access)
        self._served = served
        announce(service, self._server.url)

    def _refuse(self, link: Link) -> None:
        """Take no more requests for an engine that is to end."""
        self._engine.refuse()
        threading.Thread(target=self._let_go, args=[link], daemon=True).start()

    def _let_go(self, link: Link) -> None:
        """Tell it when its open requests have ended, or their time is up."""
        if not self._engine.wait_until_idle(self._door.grace_s):
            self._engine.stop()
        link.send(Ended())
