"""The command line."""

from __future__ import annotations

import click

from mpispec import __version__
from mpispec.commands.groups import OncePerJob

_COMMANDS = {
    "generate": "mpispec.commands.generate",
    "serve": "mpispec.commands.serve",
    "front": "mpispec.commands.front",
    "chat": "mpispec.commands.chat",
    "inspect": "mpispec.commands.models",
    "cut": "mpispec.commands.models",
    "trace": "mpispec.commands.trace",
    "simulate": "mpispec.commands.simulate",
    "top": "mpispec.commands.top",
    "bench": "mpispec.bench.group",
}


@click.group(
    cls=OncePerJob,
    modules=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="mpispec")
def main() -> None:
    """Run one language model over several machines, made fast by drafting ahead.

    Start `generate` and `serve` under mpirun to use several ranks: mpirun -np 4 mpispec generate --prompt "..."
    """


if __name__ == "__main__":
    main()
