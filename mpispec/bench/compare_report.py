"""What runs in turns say: medians, spread, and ratios within each round."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpispec.bench.compare_scenario import Scenario
from mpispec.bench.compare_turns import WARM_UP, Run
from mpispec.bench.errors import BenchError
from mpispec.commands.tables import table


def report(scenario: Scenario, baseline: str, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Sum up the counted runs of each system. Figures are None where a system has none."""
    counted = {system.name: _counted(system.name, runs) for system in scenario.systems}
    reference = counted[baseline]
    found = []
    for system in scenario.systems:
        own = counted[system.name]
        found.append(
            {
                "name": system.name,
                "command": system.command,
                "runs": len(own),
                "failures": [run.error for run in runs if run.system == system.name and run.error is not None],
                "figures": {name: _figure(name, own, reference) for name in system.figures},
                **_texts(scenario, own, reference),
            }
        )
    return found


def _counted(system: str, runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run.system == system and run.round != WARM_UP and run.error is None]


def _figure(name: str, own: Sequence[Run], reference: Sequence[Run]) -> dict[str, Any] | None:
    mine = {run.round: value for run in own if (value := run.figures.get(name)) is not None}
    theirs = {run.round: value for run in reference if (value := run.figures.get(name)) is not None}
    if not mine:
        return None
    ratios = [value / theirs[number] for number, value in mine.items() if theirs.get(number)]
    return {**spread(list(mine.values())), "values": list(mine.values()), "ratio": spread(ratios) if ratios else None}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, lowest and highest of at least one value."""
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def _texts(scenario: Scenario, own: Sequence[Run], reference: Sequence[Run]) -> dict[str, Any]:
    """Say whether every run wrote the baseline's first text on the same work, and at which token the first left it."""
    firsts: dict[frozenset[tuple[str, str]], Run] = {}
    for run in reference:
        if run.text is not None:
            firsts.setdefault(_work(scenario, run), run)
    written = [(firsts.get(_work(scenario, run)), run) for run in own if run.text is not None]
    pairs = [(expected, run) for expected, run in written if expected is not None]
    if not pairs:
        return {"same_text": None, "differs_at": None}
    other = next((pair for pair in pairs if pair[0].text != pair[1].text), None)
    return {"same_text": other is None, "differs_at": None if other is None else _first_difference(*other)}


def _work(scenario: Scenario, run: Run) -> frozenset[tuple[str, str]]:
    """Return what distinguishes rounds with different work: the variables of the scenario."""
    return frozenset(scenario.environment_in(run.round).items())


def _first_difference(one: Run, other: Run) -> int | None:
    first, second = ((run.answer or {}).get("tokens") for run in (one, other))
    if not (isinstance(first, list) and isinstance(second, list)):
        return None
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (mine, theirs) in pairs if mine != theirs), min(len(first), len(second)))


def table_lines(found: Sequence[dict[str, Any]]) -> list[str]:
    """Return the report as a table for people: median, spread and ratio of each figure."""
    figures = list(dict.fromkeys(name for one in found for name in one["figures"]))
    rows = [["system", "runs", *(head for name in figures for head in (name, "x")), "text"]]
    for one in found:
        cells = [cell for name in figures for cell in _cells(one["figures"].get(name))]
        rows.append([one["name"], str(one["runs"]), *cells, _text_cell(one)])
    return table(rows)


def _cells(figure: dict[str, Any] | None) -> tuple[str, str]:
    if figure is None:
        return "-", "-"
    return span(figure), "-" if figure["ratio"] is None else span(figure["ratio"])


def span(values: Mapping[str, float]) -> str:
    """Return what `spread` found for people."""
    return f"{values['median']:.2f} ({values['lowest']:.2f} to {values['highest']:.2f})"


def _text_cell(one: dict[str, Any]) -> str:
    if one["same_text"] is None:
        return "-"
    if one["same_text"]:
        return "same"
    return "differs" if one["differs_at"] is None else f"differs at token {one['differs_at']}"


def save(path: Path, comparison: dict[str, Any]) -> None:
    """Write a comparison in one step, so that there is a whole file at any time. Raises BenchError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(comparison, indent=1) + "\n", "utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise BenchError(
            f"The results cannot be written to {path} ({error.strerror}); name a file in a writable folder."
        ) from error
