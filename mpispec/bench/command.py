"""How a benchmark's command line reports what is wrong with its input."""

from __future__ import annotations

import sys

import click

from mpispec.bench.errors import BenchError
from mpispec.compute.base import ComputeError
from mpispec.models.errors import ModelError

BAD_INPUT = (BenchError, ComputeError, ModelError)
"""What is wrong with the input and reported in one sentence."""


def run(command: click.Command) -> None:
    """Run a command line; what is wrong with the input becomes one sentence."""
    try:
        command()
    except BAD_INPUT as error:
        sys.exit(f"mpispec: {error}")
