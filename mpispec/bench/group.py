"""`mpispec bench`: what a cluster, a model and the program itself are capable of."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import click

from mpispec.bench.command import BAD_INPUT
from mpispec.runtime.process import USAGE, complain

_COMMANDS = ("compare", "generate", "hop", "link", "overview", "stage")
"""Each is a module of this package that holds a command of the same name."""


class _OnDemand(click.Group):
    """Imports a benchmark when it is asked for: every rank of every job imports this module, and 6 MB count there."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """See `click.Group`."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """See `click.Group`."""
        if name not in _COMMANDS:
            return None
        command: Any = getattr(import_module(f"mpispec.bench.{name}"), name)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """See `click.Group`; says in one sentence why something could not be measured."""
        try:
            return super().invoke(ctx)
        except BAD_INPUT as error:
            complain(str(error))
            sys.exit(USAGE)


@click.group(cls=_OnDemand)
def bench() -> None:
    """Measure: a hop, a stage, the links, a whole generation, several systems side by side.

    Figures are defined in docs/methodology.md. Every JSON object names the hosts it was measured on.
    """
