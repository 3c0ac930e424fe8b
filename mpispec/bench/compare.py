"""`mpispec bench compare`: several systems in turns on the same work."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from mpispec.bench import compare_plot, compare_scenario
from mpispec.bench.compare_report import report, save, table_lines
from mpispec.bench.compare_scenario import Scenario
from mpispec.bench.compare_turns import Run, locked, prepared, turns
from mpispec.bench.errors import BenchError
from mpispec.bench.facts import facts_sentence, host_facts
from mpispec.bench.printing import json_flag
from mpispec.commands.flags import with_flags

_INTERRUPTED = 130
"""Exit code after Ctrl-C or a request to end; what was measured until then is shown all the same."""


def _what_flags(command: Callable[..., None]) -> Callable[..., None]:
    flags = [
        click.argument("scenario", type=click.Path(path_type=Path), required=False),
        click.option(
            "--system",
            "systems",
            multiple=True,
            metavar="NAME=COMMAND",
            help="Without a scenario: a command that prints what `mpispec generate --json` does; repeatable.",
        ),
        click.option("--only", multiple=True, metavar="NAME", help="Run only this one of the systems; repeatable."),
        click.option("--baseline", metavar="NAME", help="What ratios are to. [default: the first]"),
        click.option(
            "--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Replaces one of [environment]; repeatable."
        ),
    ]
    return with_flags(command, *flags)


@click.command()
@_what_flags
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--warm-up/--no-warm-up", default=True, help="A round before the others that does not count.")
@click.option("--timeout", type=click.FloatRange(min=1), default=600, show_default=True, help="Seconds of one run.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write JSON here after every run.")
@click.option("--png", type=click.Path(path_type=Path, dir_okay=False), help="Draw the figures.")
@json_flag
def compare(
    rounds: int, warm_up: bool, timeout: float, out: Path | None, png: Path | None, is_json: bool, **what: Any
) -> None:
    """Run the systems of SCENARIO in turns; print medians, spread, and ratios within each round."""
    scenario, baseline = _chosen(**what)
    if png is not None:
        compare_plot.check(png)
    comparison = {
        "title": scenario.title,
        "facts": host_facts(),
        "rounds": rounds,
        "baseline": baseline,
        "environment": dict(scenario.environment),
    }
    runs: list[Run] = []

    def summed_up() -> dict[str, Any]:
        found = report(scenario, baseline, runs)
        return {**comparison, "systems": found, "runs": [asdict(run) for run in runs]}

    was_interrupted = False
    with locked(scenario.lock):
        if out is not None:
            save(out, summed_up())
        with prepared(scenario, _say):
            try:
                for run in turns(scenario, rounds, warm_up, timeout, _say):
                    runs.append(run)
                    if out is not None:
                        save(out, summed_up())
            except KeyboardInterrupt:
                was_interrupted = True
    _show(summed_up(), png, is_json)
    if was_interrupted:
        sys.exit(_INTERRUPTED)


def _chosen(
    scenario: Path | None, systems: Sequence[str], only: Sequence[str], baseline: str | None, overrides: Sequence[str]
) -> tuple[Scenario, str]:
    """Return what is to be run, and the name of the baseline. Raises BenchError."""
    if scenario is not None and systems:
        raise BenchError("Give a scenario file or --system options, not both.")
    found = compare_scenario.of_options(systems)
    if scenario is not None:
        found = compare_scenario.read(scenario, compare_scenario.assignments(overrides))
    compare_scenario.check(found)
    names = [system.name for system in found.systems]
    for name in (*only, *([baseline] if baseline else [])):
        if name not in names:
            raise BenchError(f"There is no system {name!r}; there are: {', '.join(names)}.")
    chosen = tuple(system for system in found.systems if not only or system.name in only)
    names = [system.name for system in chosen]
    if baseline is not None and baseline not in names:
        raise BenchError(f"The baseline {baseline!r} is not among those that --only names; add it.")
    return replace(found, systems=chosen), baseline or names[0]


def _show(comparison: dict[str, Any], png: Path | None, is_json: bool) -> None:
    found = comparison["systems"]
    if not any(one["runs"] for one in found):
        raise BenchError("No system has answered; the lines above say why.")
    if png is not None:
        compare_plot.draw(png, comparison)
    if is_json:
        click.echo(json.dumps(comparison))
        return
    click.echo(f"{comparison['title']}: {facts_sentence(comparison['facts'])}\n")
    click.echo("\n".join(table_lines(found)))
    click.echo(f"\nx: to {comparison['baseline']}, round by round. Median (lowest to highest).")
    for one in found:
        for failure in one["failures"]:
            click.echo(f"{one['name']} failed: {failure}")


def _say(sentence: str) -> None:
    click.echo(sentence, err=True)
