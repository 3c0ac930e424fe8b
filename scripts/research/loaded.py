"""Start a server, load it as `mpispec bench serve` does, and end it: one JSON object, for `mpispec bench compare`.

python scripts/research loaded --url http://127.0.0.1:8090 --load "--concurrency 8" COMMAND...
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import urllib.request

import click

from mpispec.bench.errors import BenchError
from mpispec.bench.termination import terminated_in_order
from research.peers.guarded import running
from research.peers.llama_server import START_SECONDS

_LOAD_SECONDS = 1800.0


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--url", required=True, help="Where the server will listen.")
@click.option("--load", default="", help="Flags of `mpispec bench serve`.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def main(url: str, load: str, command: tuple[str, ...]) -> None:
    """Measure a server under load, from its start to its end."""
    client = [sys.executable, "-m", "mpispec", "bench", "serve", "--json", "--url", url, *shlex.split(load)]
    with terminated_in_order(), running("The server", command) as server:
        late = f"Nothing answers at {url} after {START_SECONDS:.0f} s; look at what the command starts."
        server.wait(lambda: _answers(url), START_SECONDS, late)
        try:
            found = subprocess.run(client, stdout=subprocess.PIPE, text=True, timeout=_LOAD_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise BenchError(f"The load was not through within {_LOAD_SECONDS:.0f} s; send fewer requests.") from None
        server.require()
    if found.returncode != 0:
        raise BenchError("The client failed; it has said why.")
    click.echo(found.stdout)


def _answers(url: str) -> bool:
    """Tell whether the server computes."""
    try:
        with urllib.request.urlopen(url + "/health", timeout=START_SECONDS):
            return True
    except OSError:
        return False
