"""Groups of commands that every rank of a job reads and only one rank talks about."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from importlib import import_module
from typing import Any

import click

from mpispec.runtime.process import INTERRUPTED
from mpispec.transport.environment import launched_rank


class OnDemand(click.Group):
    """Imports the module of a command when it is asked for: what every rank of every job loads takes its memory."""

    def __init__(self, *args: Any, modules: Mapping[str, str], **extra: Any) -> None:
        """`modules` says for each command which module holds it, under the same name."""
        super().__init__(*args, **extra)
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        """See `click.Group`."""
        return sorted(self._modules)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """See `click.Group`."""
        if name not in self._modules:
            return None
        command: Any = getattr(import_module(self._modules[name]), name)
        assert isinstance(command, click.Command)
        return command


class OncePerJob(OnDemand):
    """Says what it has to say about the command line on rank 0; all other ranks find the same and keep silent."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """See `click.Command.main`."""
        if launched_rank() == 0:
            return super().main(*args, **extra)
        with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
            try:
                sys.exit(super().main(*args, **{**extra, "standalone_mode": False}) or 0)
            except click.ClickException as error:
                sys.exit(error.exit_code)
            except click.Abort:
                sys.exit(INTERRUPTED)
