"""What layers cost on the torch backend, beside transformers' own eager attention on the same layers.

python scripts/research eager FOLDER [--layers A-B] [--past N] [--rows 1,8] [--dtype float32] [--json]
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from mpispec.bench.facts import host_facts
from mpispec.bench.stage import read_layers, read_rows
from mpispec.compute.factory import backend_of


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--layers", "layer_range", metavar="A-B", help="First and last layer; default: a quarter in the middle.")
@click.option("--past", type=click.IntRange(min=1), default=256, show_default=True, help="Cached positions.")
@click.option("--rows", default="1,8", show_default=True, metavar="1,2,...", help="Sizes of a run.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option("--rounds", type=click.IntRange(min=3), default=10, show_default=True)
@click.option("--json", "is_json", is_flag=True)
def main(folder: Path, layer_range: str | None, past: int, rows: str, dtype: str, rounds: int, is_json: bool) -> None:
    """Compare layers of a model folder on one thread."""
    from research.eager_layers import compared  # noqa: PLC0415  torch takes seconds, and is not everywhere

    host = host_facts()
    layers = read_layers(layer_range, backend_of(folder).inspect(folder))
    found = compared(folder, layers, read_rows(rows), past, dtype, rounds)
    if is_json:
        asked = {"layers": [layers.start, layers.stop - 1], "past": past, "dtype": dtype, "rounds": rounds}
        click.echo(json.dumps({**asked, "rows": found, "hosts": [host]}))
        return
    for size, each in found.items():
        median, least, most = each["ratio"]
        click.echo(
            f"{size:>3} rows: {each['ours_ms']:.2f} ms, {median:.2f} of eager's ({least:.2f} to {most:.2f}); "
            f"{each['own_us_per_layer']:.0f} us a layer are our own"
        )
