"""REPL and HTTP server over one engine: the application behind `mpispec serve`."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from socket import socket

from mpispec.runtime.group import JobError
from mpispec.serve.address import bind, find_key
from mpispec.serve.closing import Closing
from mpispec.serve.errors import ServeError
from mpispec.serve.lines import DescriptorLines
from mpispec.serve.repl import Repl
from mpispec.serve.server import Server
from mpispec.serve.service import Service

_STANDARD_INPUT = 0


@dataclass(frozen=True, slots=True)
class Door:
    """Where clients come in."""

    listener: socket
    key: str | None
    """Demanded from clients."""


def open_door(host: str, port: int, api_key: str | None) -> Door:
    """Take the port before anything is loaded; JobError if it cannot be had."""
    try:
        return Door(bind(host, port), find_key(host, api_key))
    except ServeError as error:
        raise JobError(str(error)) from error


@dataclass(frozen=True, slots=True)
class Ends:
    """How a server is ended from outside."""

    on_interrupt: Callable[[Callable[[], None]], None]
    """Have Ctrl-C call a function."""
    on_request: Callable[[Callable[[], None]], None]
    """Have a signal that asks for the end call a function."""
    grace_s: float
    """Seconds that open requests then get."""


def serve_until_stopped(service: Service, door: Door, has_repl: bool, ends: Ends) -> None:
    """Serve until `/quit`, Ctrl-C at an idle prompt, Ctrl-D at a terminal, or a signal to end.

    The end of an input that is no terminal leaves the HTTP server running: under nohup there is no input at all.
    """
    ended = threading.Event()
    server = Server(service, door.listener, door.key)
    repl = Repl(service, DescriptorLines(_STANDARD_INPUT), sys.stdout) if has_repl else None
    also = [ended.set] if repl is None else [ended.set, repl.end]
    closing = Closing(server, service.engine, ends.grace_s, also)
    server.start()
    sys.stderr.write(f"mpispec: answers are drawn with {service.manner.describe()}\n")
    sys.stderr.write(f"mpispec: serving {service.model} on {server.url}\n")
    sys.stderr.flush()
    ends.on_request(closing.ask)
    try:
        if repl is not None:
            ends.on_interrupt(repl.interrupt)
            if repl.run() != "eof" or os.isatty(_STANDARD_INPUT):
                return
        ends.on_interrupt(ended.set)
        ended.wait()
    finally:
        closing.wait()
        server.stop()
