"""What `mpispec simulate` reads from flags and files: hit rates and the cost of rows."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from mpispec.sim.costs import ROWS_FACTORS
from mpispec.sim.ladder import Rung
from mpispec.sim.script import Hits


class StudyError(Exception):
    """A study that cannot be done as asked; the text is one sentence with the remedy."""


def read_hits(text: str, rescue: float) -> Hits:
    """Return what `--hit` says: a rate, or a file with rates by depth or with outcomes. Raises StudyError."""
    try:
        rate = float(text)
    except ValueError:
        return _hits_of(_numbers(text, "--hit", "a number from 0 to 1"), text, rescue)
    if not 0.0 <= rate <= 1.0:
        raise StudyError(f"--hit {text} is no chance; give a number from 0 to 1, like 0.8.")
    return Hits((rate,), rescue=rescue)


def _hits_of(numbers: list[float | int], text: str, rescue: float) -> Hits:
    if any(not 0.0 <= number <= 1.0 for number in numbers):
        raise StudyError(f"--hit {text} has numbers outside of 0 to 1; list chances by depth, or outcomes 0 and 1.")
    if all(isinstance(number, int) for number in numbers):
        return Hits(outcomes=tuple(bool(number) for number in numbers), rescue=rescue)
    return Hits(tuple(float(number) for number in numbers), rescue=rescue)


def read_rows(text: str) -> tuple[float, ...]:
    """Return what `--rows` says: the cost of 1, 2, 3, ... rows in runs of one row. Raises StudyError."""
    if text in ROWS_FACTORS:
        return ROWS_FACTORS[text]
    factors = [float(number) for number in _numbers(text, "--rows", " or ".join(ROWS_FACTORS))]
    if any(factor <= 0.0 for factor in factors):
        raise StudyError(f"--rows {text} has a factor that is not above 0; list the times of 1, 2, 3, ... rows.")
    return tuple(factor / factors[0] for factor in factors)


def read_ladder(text: str | None) -> tuple[Rung, ...]:
    """Return what `--ladder` says, the lowest model first. Raises StudyError."""
    return tuple(_rung(item.strip()) for item in text.split(",")) if text else ()


def _rung(item: str) -> Rung:
    try:
        times, hit, *stages = item.split(":")
        rung = Rung(tuple(float(ms) * 1e-3 for ms in times.split("/")), float(hit), *map(int, stages))
    except (TypeError, ValueError) as error:
        raise StudyError(f"--ladder has {item!r}; write each model as MS:AGREEMENT, like 22/28:0.92.") from error
    is_possible = all(math.isfinite(seconds) and seconds > 0.0 for seconds in rung.rows_s)
    if not is_possible or not 0.0 <= rung.hit <= 1.0 or rung.num_stages < 1:
        raise StudyError(f"--ladder has {item!r}; times are above 0, agreements from 0 to 1, stages at least 1.")
    return rung


def _numbers(path: str, flag: str, otherwise: str) -> list[float | int]:
    """Return a JSON file's list of numbers."""
    try:
        content: Any = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise StudyError(
            f"{flag} {path} cannot be read ({error.strerror}); name a JSON file, or give {otherwise}."
        ) from error
    except ValueError as error:
        raise StudyError(f"{flag} {path} is not JSON ({error}); it must hold a list of numbers.") from error
    is_list = isinstance(content, list) and bool(content)
    if not is_list or any(isinstance(number, bool) or not isinstance(number, int | float) for number in content):
        raise StudyError(f"{flag} {path} must hold a JSON list of numbers, like [0.9, 0.8, 0.7].")
    if not all(math.isfinite(number) for number in content):
        raise StudyError(f"{flag} {path} holds a number that is not finite; list plain numbers.")
    return list(content)
