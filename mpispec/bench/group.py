"""`mpispec bench`: measurements that are made by hand."""

from __future__ import annotations

import sys
from typing import Any

import click

from mpispec.bench.compare import compare
from mpispec.bench.errors import BenchError

_USAGE = 2
"""Exit code where the input was at fault."""


class _Sentences(click.Group):
    """Says in one sentence why a measurement could not be made."""

    def invoke(self, ctx: click.Context) -> Any:
        """See `click.Group.invoke`."""
        try:
            return super().invoke(ctx)
        except BenchError as error:
            click.echo(f"mpispec: {error}", err=True)
            sys.exit(_USAGE)


@click.group(cls=_Sentences)
def bench() -> None:
    """Measure on the machines at hand; docs/methodology.md says what each number means."""


bench.add_command(compare)
