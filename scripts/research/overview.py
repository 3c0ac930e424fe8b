"""Saved comparisons below each other, in one table and one picture. Started by scripts/peers/draw-overview."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from mpispec.bench import compare_plot
from mpispec.bench.compare_report import span
from mpispec.bench.errors import BenchError
from mpispec.bench.printing import json_flag
from mpispec.commands.tables import table
from mpispec.drawing.figure import ACCENT, BASELINE, blank, tidy

_SPREAD = "#8fb4dc"


@dataclass(frozen=True, slots=True)
class Case:
    """What a system gained over the baseline of its comparison: quotients within a round."""

    label: str
    system: str
    baseline: str
    runs: int
    median: float
    lowest: float
    highest: float


def read(label: str, path: Path, system: str | None, figure: str) -> Case:
    """Read the gain of `system`, the last one if None; `label` stands for the title if it is not empty.

    Raises BenchError if the file is no saved comparison or has no such gain.
    """
    try:
        comparison = json.loads(path.read_text("utf-8"))
        one = _chosen(comparison["systems"], path, system)
        gain = (one["figures"].get(figure) or {}).get("ratio")
        if gain is None:
            raise BenchError(f"{path} has no ratio of {figure!r} for {one['name']!r}; name another figure or system.")
        return Case(label or comparison["title"], one["name"], comparison["baseline"], one["runs"], **gain)
    except OSError as error:
        raise BenchError(f"{path} cannot be read ({error.strerror}); name a file of bench compare --out.") from error
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise BenchError(f"{path} is no comparison; name a file that bench compare --out has written.") from error


def _chosen(systems: list[dict[str, Any]], path: Path, name: str | None) -> dict[str, Any]:
    if name is None:
        return systems[-1]
    found = next((one for one in systems if one["name"] == name), None)
    if found is None:
        known = ", ".join(one["name"] for one in systems)
        raise BenchError(f"{path} has no system {name!r}; there are: {known}.")
    return found


def draw(png: Path, cases: Sequence[Case], figure: str, title: str) -> None:
    """Draw each case's median as a dot on the line from its lowest to its highest, 1600 pixels wide."""
    picture = blank(1.6 + 0.42 * len(cases))
    axes = picture.subplots()
    for row, case in enumerate(cases):
        axes.plot([case.lowest, case.highest], [row, row], "-", color=_SPREAD, linewidth=6, solid_capstyle="round")
        axes.plot(case.median, row, "o", color=ACCENT, markersize=8)
        axes.annotate(
            f"{case.median:.2f}", (case.highest, row), (10, 0), textcoords="offset points", va="center", fontsize=11
        )
    axes.set_title(title, fontsize=14, loc="left")
    axes.axvline(1, color=BASELINE, linewidth=1.5, zorder=0)
    axes.set_yticks(range(len(cases)), [textwrap.fill(case.label, 60) for case in cases], fontsize=11)
    axes.set_ylim(len(cases) - 0.5, -0.5)
    axes.set_xlim(0, max(case.highest for case in cases) * 1.08)
    axes.set_xlabel(f"{figure}, times {cases[0].baseline}; dots: medians of the rounds; lines: lowest to highest")
    tidy(axes, "x")
    picture.tight_layout()
    picture.savefig(png, format="png")


@click.command()
@click.argument("results", metavar="[LABEL=]FILE...", nargs=-1, required=True)
@click.option("--system", metavar="NAME", help="Whose gain is shown. [default: the last system of each file]")
@click.option("--figure", metavar="NAME", default="decode", show_default=True, help="Which of its figures.")
@click.option("--png", type=click.Path(path_type=Path, dir_okay=False), help="Draw the gains.")
@click.option("--title", default="", help="Of the picture.")
@json_flag
def main(
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
        draw(png, cases, figure, title)
    if is_json:
        click.echo(json.dumps({"figure": figure, "cases": [asdict(case) for case in cases]}))
        return
    head = ("case", "system", "runs", f"{figure}, x {baselines[0]}")
    click.echo("\n".join(table([head, *map(_row, cases)])))


def _row(case: Case) -> tuple[str, str, str, str]:
    return case.label, case.system, str(case.runs), span(asdict(case))
