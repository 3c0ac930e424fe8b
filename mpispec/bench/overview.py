"""`mpispec bench overview`: saved comparisons below each other, in one table and one picture."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from mpispec.bench import compare_plot, overview_plot
from mpispec.bench.compare_report import span
from mpispec.bench.errors import BenchError
from mpispec.bench.overview_case import Case, read
from mpispec.bench.printing import json_flag
from mpispec.commands.tables import table


@click.command()
@click.argument("results", metavar="[LABEL=]FILE...", nargs=-1, required=True)
@click.option("--system", metavar="NAME", help="Whose gain is shown. [default: the last system of each file]")
@click.option("--figure", metavar="NAME", default="decode", show_default=True, help="Which of its figures.")
@click.option("--png", type=click.Path(path_type=Path, dir_okay=False), help="Draw the gains.")
@click.option("--title", default="", help="Of the picture.")
@json_flag
def overview(
    results: tuple[str, ...], system: str | None, figure: str, png: Path | None, title: str, is_json: bool
) -> None:
    """Show the gains that `mpispec bench compare --out FILE` has saved, a line a file.

    Without a LABEL a comparison is called by its title.
    """
    cases = []
    for result in results:
        label, _, path = result.rpartition("=")
        cases.append(read(label, Path(path), system, figure))
    baselines = list(dict.fromkeys(case.baseline for case in cases))
    if len(baselines) > 1:
        raise BenchError(f"The gains are over different systems ({', '.join(baselines)}); show one kind at a time.")
    if png is not None:
        compare_plot.check(png)
        overview_plot.draw(png, cases, figure, title)
    if is_json:
        click.echo(json.dumps({"figure": figure, "cases": [asdict(case) for case in cases]}))
        return
    head = ("case", "system", "runs", f"{figure}, x {baselines[0]}")
    click.echo("\n".join(table([head, *map(_row, cases)])))


def _row(case: Case) -> tuple[str, str, str, str]:
    return case.label, case.system, str(case.runs), span(asdict(case))
