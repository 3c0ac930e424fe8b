"""Options of `serve` and `front`: where people come in, who may, how much of it, and what is written of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from mpispec.commands.flags import Flag, with_flags
from mpispec.front.messages import Door
from mpispec.serve.http.address import Access, ServeError, find_access
from mpispec.serve.http.log import FORMS
from mpispec.serve.http.server import PING_SECONDS
from mpispec.serve.http.tls import find_tls

_QUEUE = 64
_FILE = click.Path(path_type=Path)


def door_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that `read_door` reads."""
    return with_flags(command, *_address_flags(), *_access_flags(), *_bounds(), *_habits())


def _address_flags() -> tuple[Flag, ...]:
    port = click.IntRange(0, 65535)
    return (
        click.option("--host", default="127.0.0.1", show_default=True, help="Address of the HTTP server."),
        click.option("--port", type=port, default=8080, show_default=True, help="0 takes a free one."),
        click.option("--tls-cert", type=_FILE, metavar="FILE", help="Talk TLS with this certificate, in PEM form."),
        click.option("--tls-key", type=_FILE, metavar="FILE", help="Its private key."),
    )


def _access_flags() -> tuple[Flag, ...]:
    return (
        click.option("--api-key", envvar="MPISPEC_API_KEY", help="Demanded from clients; required off 127.0.0.1."),
        click.option("--api-key-file", type=_FILE, metavar="FILE", help="Further such keys, one a line."),
        click.option(
            "--cors-origin",
            multiple=True,
            metavar="ORIGIN",
            help="A web page that may use the server, such as http://localhost:3000; * for all, with a key.",
        ),
        click.option(
            "--allow-host",
            multiple=True,
            metavar="NAME",
            help="A name that clients may call the server by, such as box.lan or *.lan; others are refused.",
        ),
    )


def _bounds() -> tuple[Flag, ...]:
    return (
        click.option(
            "--queue",
            type=click.IntRange(0, 512),
            default=_QUEUE,
            show_default=True,
            help="Answers that may wait for their turn; more are refused with 503.",
        ),
        click.option(
            "--per-key",
            type=click.IntRange(1, 1024),
            metavar="N",
            help="Answers of one key that may be under way or wait; more are refused with 429.",
        ),
        click.option(
            "--grace",
            type=click.FloatRange(0, 86_400),
            default=30.0,
            show_default=True,
            help="Seconds that open requests get when SIGTERM asks the server to end.",
        ),
    )


def _habits() -> tuple[Flag, ...]:
    return (
        click.option(
            "--log",
            type=click.Choice(FORMS),
            help="A line for each HTTP request on standard error. [default: text where there is no chat, else off]",
        ),
        click.option(
            "--sse-ping",
            type=click.FloatRange(0, 3600),
            default=PING_SECONDS,
            show_default=True,
            help="Seconds of silence after which a stream says that it is still there; 0 never does.",
        ),
    )


def read_door(flags: dict[str, Any], parallel: int, has_repl: bool) -> Door:
    """Return the door of a server that has `parallel` answers at once. Raises ServeError."""
    return Door(
        _read_access(flags, parallel), flags["sse_ping"], has_repl, flags["grace"], log_form(flags["log"], has_repl)
    )


def log_form(asked: str | None, has_repl: bool) -> str:
    """Return one of `FORMS`: beside a chat lines would be in the way unless they are asked for."""
    return asked or ("off" if has_repl else "text")


def _read_access(flags: dict[str, Any], parallel: int) -> Access:
    access = find_access(
        flags["host"], flags["api_key"], flags["api_key_file"], flags["cors_origin"], flags["allow_host"]
    )
    if flags["per_key"] is not None and not access.keys:
        raise ServeError("--per-key counts the answers of each key, and there is none; give --api-key-file.")
    tls = find_tls(flags["tls_cert"], flags["tls_key"])
    return replace(access, tls=tls, most_open=parallel + flags["queue"], most_open_of_key=flags["per_key"])


_ELSEWHERE = (
    *("host", "port", "tls_cert", "tls_key", "api_key", "api_key_file", "cors_origin", "allow_host"),
    *("queue", "per_key", "log", "sse_ping"),
)
"""What is of no use where another process has the server."""


def refuse_door() -> None:
    """Raise UsageError where the command line says something about a server that another process has."""
    context = click.get_current_context()
    for name in _ELSEWHERE:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            flag = "--" + name.replace("_", "-")
            raise click.UsageError(f"{flag} belongs to mpispec front, which has the server; leave it out here.")
