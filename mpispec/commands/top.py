"""`mpispec top`: what a server and its ranks are doing, live."""

from __future__ import annotations

import importlib.util
import sys
import threading
from typing import TYPE_CHECKING

import click

from mpispec.runtime.process import USAGE, complain
from mpispec.serve.http.address import KEY_VARIABLE

if TYPE_CHECKING:
    from rich.console import Console

    from mpispec.commands.top_reading import Watched

_NEEDED = ("httpx", "prometheus_client", "rich")


@click.command()
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="Where the server listens.")
@click.option("--api-key", envvar=KEY_VARIABLE, help="If the server demands one.")
@click.option("--interval", type=click.FloatRange(0.2, 60.0), default=1.0, show_default=True, help="Seconds.")
@click.option("--once", is_flag=True, help="Print how things stand and end; so does an output that is no terminal.")
def top(url: str, api_key: str | None, interval: float, once: bool) -> None:
    """Show what a server and its ranks are doing: requests, latencies, acceptance, cells, who is busy.

    Ctrl-C ends it.
    """
    if not all(importlib.util.find_spec(package) for package in _NEEDED):
        complain("This needs httpx, prometheus_client and rich; install them with `pip install 'mpispec[top]'`.")
        sys.exit(USAGE)
    from rich.console import Console  # noqa: PLC0415  an extra

    from mpispec.commands.top_reading import NoAnswer, Watched  # noqa: PLC0415

    console = Console()
    try:
        watched = Watched(url, api_key)
        try:
            _show(watched, console, url, None if once or not console.is_terminal else interval)
        finally:
            watched.close()
    except NoAnswer as error:
        complain(str(error))
        sys.exit(USAGE)
    except KeyboardInterrupt:
        pass


def _show(watched: Watched, console: Console, url: str, interval: float | None) -> None:
    """Show a frame every so many seconds, or one. A server that goes away later may come back."""
    from rich.live import Live  # noqa: PLC0415

    from mpispec.commands.top_frame import frame  # noqa: PLC0415
    from mpispec.commands.top_reading import Change, NoAnswer, Refused  # noqa: PLC0415

    change = Change(watched.look())
    if interval is None:
        console.print(frame(url, change))
        return
    pause = threading.Event()  # nobody sets it: a wait that Ctrl-C ends
    with Live(frame(url, change), console=console, screen=True, auto_refresh=False) as live:
        while not pause.wait(interval):
            complaint = ""
            try:
                change = change.followed_by(watched.look())
            except Refused:
                raise
            except NoAnswer as error:
                complaint = str(error)
            live.update(frame(url, change, complaint), refresh=True)
