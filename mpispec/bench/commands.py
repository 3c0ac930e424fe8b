"""`mpispec bench`: what a cluster, a model and the program itself are capable of."""

from __future__ import annotations

import click

from mpispec.bench.generate import generate
from mpispec.bench.hop import hop
from mpispec.bench.link import link
from mpispec.bench.stage import stage


@click.group()
def bench() -> None:
    """Measure: a hop, a stage, the links, a whole generation.

    Figures are defined in docs/methodology.md. Every JSON object names the hosts it was measured on.
    """


for command in (hop, stage, link, generate):
    bench.add_command(command)
