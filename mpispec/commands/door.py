"""Options of `serve` that say who may use the server, how much of it, and what is written of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from mpispec.commands.flags import with_flags
from mpispec.serve.address import Access, find_access
from mpispec.serve.log import FORMS
from mpispec.serve.tls import find_tls

_QUEUE = 64


def door_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that `read_access` and `read_log` read."""
    file = click.Path(path_type=Path)
    flags = [
        click.option("--api-key", envvar="MPISPEC_API_KEY", help="Demanded from clients; required off 127.0.0.1."),
        click.option("--api-key-file", type=file, metavar="FILE", help="Further such keys, one a line."),
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
        click.option("--tls-cert", type=file, metavar="FILE", help="Talk TLS with this certificate, in PEM form."),
        click.option("--tls-key", type=file, metavar="FILE", help="Its private key."),
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
            "--log",
            type=click.Choice(FORMS),
            help="A line for each HTTP request on standard error. [default: text with --no-repl, else off]",
        ),
    ]
    return with_flags(command, *flags)


def read_access(flags: dict[str, Any], parallel: int) -> Access:
    """Return who may use a server that has `parallel` answers at once. Raises ServeError."""
    access = find_access(
        flags["host"], flags["api_key"], flags["api_key_file"], flags["cors_origin"], flags["allow_host"]
    )
    tls = find_tls(flags["tls_cert"], flags["tls_key"])
    return replace(access, tls=tls, most_open=parallel + flags["queue"], most_open_of_key=flags["per_key"])


def read_log(flags: dict[str, Any]) -> str:
    """Return the form of the log, one of `FORMS`: beside a chat there is none unless it is asked for."""
    form: str | None = flags["log"]
    return form or ("off" if flags["repl"] else "text")
