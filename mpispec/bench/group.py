"""`mpispec bench`: what a cluster, a model and the program itself are capable of."""

from __future__ import annotations

import sys
from typing import Any

import click

from mpispec.bench.command import BAD_INPUT
from mpispec.commands.groups import OnDemand
from mpispec.runtime.process import USAGE, complain

_COMMANDS = ("compare", "generate", "hop", "link", "serve", "stage")
"""Each is a module of this package that holds a command of the same name."""


class _Bench(OnDemand):
    """Says in one sentence why something could not be measured."""

    def invoke(self, ctx: click.Context) -> Any:
        """See `click.Group`."""
        try:
            return super().invoke(ctx)
        except BAD_INPUT as error:
            complain(str(error))
            sys.exit(USAGE)


@click.group(cls=_Bench, modules={name: f"mpispec.bench.{name}" for name in _COMMANDS})
def bench() -> None:
    """Measure: a hop, a stage, the links, a whole generation, a server under load, several systems side by side.

    Figures are defined in docs/methodology.md. Every JSON object names the hosts it was measured on.
    """
