"""One line of an overview, read from what `mpispec bench compare` has saved."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpispec.bench.errors import BenchError


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
