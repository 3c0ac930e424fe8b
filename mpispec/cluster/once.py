"""A command line that every rank reads and only one rank talks about."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from typing import Any

import click

from mpispec.cluster.ranks import INTERRUPTED
from mpispec.transport.environment import launched_rank


class OncePerJob(click.Group):
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
