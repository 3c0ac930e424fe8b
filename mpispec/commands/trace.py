"""`mpispec trace`: draw a timeline."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from mpispec.drawing.trace_plot import TraceError, draw
from mpispec.runtime.process import USAGE, complain


@click.command()
@click.argument("trace", type=click.Path(path_type=Path))
@click.option("--png", type=click.Path(path_type=Path, dir_okay=False), required=True, help="Picture to write.")
@click.option("--from", "start", type=float, default=0.0, help="First second to draw.")
@click.option("--seconds", type=click.FloatRange(min=0.0, min_open=True), help="How much to draw; default: all.")
def trace(trace: Path, png: Path, start: float, seconds: float | None) -> None:
    """Draw a timeline that --trace has written."""
    try:
        draw(trace, png, start, seconds)
    except TraceError as error:
        complain(str(error))
        sys.exit(USAGE)
    click.echo(f"{png}")
