"""`mpispec front`: an HTTP server whose jobs come and go."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import click

from mpispec.commands.door import door_flags, read_door
from mpispec.front.alone import Alone
from mpispec.front.local_socket import listen
from mpispec.runtime.process import SIGNALS, USAGE, complain
from mpispec.serve.http.address import ServeError, bind


@click.command()
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    required=True,
    metavar="SOCKET",
    help="Where jobs of this host and user connect: mpispec serve --front SOCKET.",
)
@door_flags
def front(**flags: Any) -> None:
    """Be the HTTP server of jobs that connect, and stay when they end: requests get 503 until the next one."""
    try:
        door = read_door(flags, 0, has_repl=False)
        engines = listen(flags["socket"])
        alone = Alone(door, bind(flags["host"], flags["port"]), engines)
    except ServeError as error:
        complain(str(error))
        raise SystemExit(USAGE) from None
    for number in (signal.SIGINT, *SIGNALS):
        signal.signal(number, lambda *_: alone.end())
    complain(f"waiting on {alone.url} for a job: mpirun ... mpispec serve --front {flags['socket']}")
    alone.run()
    flags["socket"].unlink(missing_ok=True)
