"""Start a server, load it as `mpispec bench serve` does, and end it: one JSON object, for `mpispec bench compare`.

python scripts/research loaded --url http://127.0.0.1:8090 --load "--concurrency 8" COMMAND...
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
import urllib.request

import click

from mpispec.bench.errors import BenchError
from mpispec.bench.termination import terminated_in_order
from research.peers.guarded import Guarded, running

_START_SECONDS = 300.0
"""llama.cpp's first host sends the others their weights."""
_LOAD_SECONDS = 1800.0
_PAUSE_SECONDS = 0.2


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--url", required=True, help="Where the server will listen.")
@click.option("--load", default="", help="Flags of `mpispec bench serve`.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def main(url: str, load: str, command: tuple[str, ...]) -> None:
    """Measure a server under load, from its start to its end."""
    client = [sys.executable, "-m", "mpispec", "bench", "serve", "--json", "--url", url, *shlex.split(load)]
    with terminated_in_order(), running("The server", command) as server:
        _wait(server, url)
        try:
            found = subprocess.run(client, stdout=subprocess.PIPE, text=True, timeout=_LOAD_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise BenchError(f"The load was not through within {_LOAD_SECONDS:.0f} s; send fewer requests.") from None
        server.require()
    if found.returncode != 0:
        raise BenchError("The client failed; it has said why.")
    click.echo(found.stdout)


def _wait(server: Guarded, url: str) -> None:
    """Return when the server computes. Raises BenchError if it ends before, or takes too long."""
    deadline = time.monotonic() + _START_SECONDS
    while True:
        server.require()
        try:
            with urllib.request.urlopen(url + "/health", timeout=_START_SECONDS):
                return
        except OSError:
            if time.monotonic() > deadline:
                message = f"Nothing answers at {url} after {_START_SECONDS:.0f} s; look at what the command starts."
                raise BenchError(message) from None
            time.sleep(_PAUSE_SECONDS)
