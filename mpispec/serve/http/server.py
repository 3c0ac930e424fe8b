"""Runs the HTTP server in a thread of its own next to the engine, and ends it in order."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future

from mpispec.serve.http import log
from mpispec.serve.http.address import Access, check_access
from mpispec.serve.text.engine import Engine
from mpispec.serve.text.service import Service

_GRACE_SECONDS = 2
"""How long a stop waits for open answers."""
PING_SECONDS = 15.0
"""How often a stream without anything to say says so; proxies and clients give up on silence after 60 s and more."""


class Server:
    """An HTTP server on a socket from `bind`, for those whom `access` lets in; raises ServeError without a needed key.

    It installs no signal handlers. An exception in its thread reaches `threading.excepthook`.
    """

    def __init__(
        self,
        service: Service | None,
        listener: socket.socket,
        access: Access,
        ping_s: float = PING_SECONDS,
        log_form: str = "off",
    ) -> None:
        """`ping_s` is how long a stream may be silent, in seconds, 0 without a bound; `log_form` one of `log.FORMS`.

        Without a `service` requests are answered with 503 until there is one to `serve`.
        """
        # Here and not above: only a rank that serves pays for these imports.
        import uvicorn  # noqa: PLC0415

        from mpispec.serve.http.connection import KEEP_SECONDS, DeadlineProtocol  # noqa: PLC0415
        from mpispec.serve.http.gate import Changeable, Drain, answer_without_engine  # noqa: PLC0415
        from mpispec.serve.http.guard import Guard  # noqa: PLC0415

        log.set_up(log_form)
        self._listener = listener
        self.url = _url(listener, access)
        """Where clients reach it."""
        check_access(listener.getsockname()[0], access)
        tls = access.tls
        self._drain = Drain(self._exit)
        self._ping_s = ping_s
        self._app = Changeable(Guard(answer_without_engine, access))
        if service is not None:
            self.serve(service, access)
        config = uvicorn.Config(
            self._app,
            http=DeadlineProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ssl_certfile=tls.certificate if tls else None,
            ssl_keyfile=tls.key if tls else None,
            timeout_keep_alive=KEEP_SECONDS,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        self._uvicorn = uvicorn.Server(config)
        self._readers = _Readers()
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def serve(self, service: Service, access: Access) -> None:
        """Answer with the engine of a service from now on."""
        from mpispec.serve.http.routes import make_app  # noqa: PLC0415

        self._app.app = make_app(service, access, self._ping_s, self._drain)

    def start(self) -> None:
        """Start to answer; returns at once, since the socket takes connections already."""
        self._thread.start()

    def refuse(self) -> None:
        """Stop taking requests; open ones go on until they or the engine end. Returns at once, may be called twice.

        While some are open others are told so, and so is who asks after the health.
        """
        self._uvicorn.config.timeout_graceful_shutdown = None
        self._drain.begin()

    def join(self, seconds: float) -> None:
        """Wait at most `seconds` for open requests to end, after `refuse`."""
        self._thread.join(seconds)

    def stop(self, seconds: float = 5.0) -> None:
        """Stop taking requests, end open answers, wait at most `seconds` for the thread. May be called twice."""
        self._uvicorn.should_exit = True
        if self._thread.is_alive():
            self._thread.join(seconds)
        self._listener.close()

    def attend(self, source: int, read: Callable[[], bool]) -> None:
        """Have `read` called on the loop when the descriptor `source` has something to read.

        Returns when `read` has returned False, or the server has ended; to be called after `start`.
        """
        self._readers.attend(source, read)

    def _exit(self) -> None:
        self._uvicorn.should_exit = True

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        with self._readers.on_loop():
            await self._uvicorn.serve(sockets=[self._listener])


class _Readers:
    """What an event loop reads for others while it runs."""

    def __init__(self) -> None:
        self._loop: Future[asyncio.AbstractEventLoop] = Future()
        self._guard = threading.Lock()
        self._attended: set[threading.Event] = set()
        """Are set when nobody reads for them any more."""
        self._has_ended = False

    @contextlib.contextmanager
    def on_loop(self) -> Iterator[None]:
        """Read on the running loop, within this block."""
        self._loop.set_result(asyncio.get_running_loop())
        try:
            yield
        finally:
            with self._guard:
                self._has_ended = True
                for over in self._attended:
                    over.set()

    def attend(self, source: int, read: Callable[[], bool]) -> None:
        """See `Server.attend`."""
        loop = self._loop.result()
        over = threading.Event()

        def look() -> None:
            if not read():
                loop.remove_reader(source)
                over.set()

        with self._guard:
            if self._has_ended:
                return
            self._attended.add(over)
        with contextlib.suppress(RuntimeError):  # it has just been closed
            loop.call_soon_threadsafe(loop.add_reader, source, look)
        over.wait()
        with self._guard:
            self._attended.discard(over)


def _url(listener: socket.socket, access: Access) -> str:
    host, port = listener.getsockname()[:2]
    scheme = "https" if access.tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


_MARGIN_S = 5.0
"""Within this time a server has informed every client that the engine has stopped."""


class Closing:
    """Ends a server when someone asks for it; `ask` it from any thread or a signal handler."""

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
        for call in self._also:
            call()
        if not self._ended.wait(self._grace_s):
            self._engine.stop()
