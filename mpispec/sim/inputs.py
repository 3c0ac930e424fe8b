"""What `mpispec simulate` reads from flags and files: acceptance rates and the cost of rows."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from mpispec.sim.cascade import CascadeModel
from mpispec.sim.costs import ROWS_FACTORS
from mpispec.sim.script import Acceptance


class StudyError(Exception):
    """A study that cannot be done as asked; the text is one sentence with the remedy."""


def read_acceptance(text: str, rescue: float) -> Acceptance:
    """Return what `--acceptance` says: a rate, or a file with rates by depth or with outcomes. Raises StudyError."""
    try:
        rate = float(text)
    except ValueError:
        return _acceptance_of(_numbers(text, "--acceptance", "a number from 0 to 1"), text, rescue)
    if not 0.0 <= rate <= 1.0:
        raise StudyError(f"--acceptance {text} is no chance; give a number from 0 to 1, like 0.8.")
    return Acceptance((rate,), rescue=rescue)


def _acceptance_of(numbers: list[float | int], text: str, rescue: float) -> Acceptance:
    if any(not 0.0 <= number <= 1.0 for number in numbers):
        raise StudyError(
            f"--acceptance {text} has numbers outside of 0 to 1; list chances by depth, or outcomes 0 and 1."
        )
    if all(isinstance(number, int) for number in numbers):
        return Acceptance(outcomes=tuple(bool(number) for number in numbers), rescue=rescue)
    return Acceptance(tuple(float(number) for number in numbers), rescue=rescue)


def read_rows(text: str) -> tuple[float, ...]:
    """Return what `--rows` says: the cost of 1, 2, 3, ... rows in runs of one row. Raises StudyError."""
    if text in ROWS_FACTORS:
        return ROWS_FACTORS[text]
    factors = [float(number) for number in _numbers(text, "--rows", " or ".join(ROWS_FACTORS))]
    if any(factor <= 0.0 for factor in factors):
        raise StudyError(f"--rows {text} has a factor that is not above 0; list the times of 1, 2, 3, ... rows.")
    return tuple(factor / factors[0] for factor in factors)


def read_cascade(text: str | None) -> tuple[CascadeModel, ...]:
    """Return what `--cascade` says, the lowest model first. Raises StudyError."""
    return tuple(_cascade_model(item.strip()) for item in text.split(",")) if text else ()


def _cascade_model(item: str) -> CascadeModel:
    try:
        times, agreement, *stages = item.split(":")
        model = CascadeModel(tuple(float(ms) * 1e-3 for ms in times.split("/")), float(agreement), *map(int, stages))
    except (TypeError, ValueError) as error:
        raise StudyError(f"--cascade has {item!r}; write each model as MS:AGREEMENT, like 22/28:0.92.") from error
    is_possible = all(math.isfinite(seconds) and seconds > 0.0 for seconds in model.rows_s)
    if not is_possible or not 0.0 <= model.acceptance <= 1.0 or model.num_stages < 1:
        raise StudyError(f"--cascade has {item!r}; times are above 0, agreements from 0 to 1, stages at least 1.")
    return model


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
