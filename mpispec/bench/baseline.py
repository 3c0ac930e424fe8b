"""Ratios of an earlier run that later ones are held against: a guard against a change that costs speed unnoticed."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpispec.runtime.group import JobError

OWN = Path(__file__).with_name("baseline.json")
"""The committed baseline; entries for several settings."""
SPEED = "speculation_over_plain"
"""Tokens/s by tokens/s; more is better."""
OVERHEAD = "null_over_plain"
"""Median time between two tokens without arithmetic, by that of plain ones; less is better."""
_MEANING = {
    SPEED: "speculation brings less than it did",
    OVERHEAD: "what is not arithmetic takes a larger share of a plain token than it did",
}


def ratios(ones: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """Return median and spread of one by other, pair by pair of the same turn."""
    values = [one / other for one, other in zip(ones, others, strict=True)]
    return {
        "p50": round(statistics.median(values), 4),
        "least": round(min(values), 4),
        "most": round(max(values), 4),
    }


def read(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a baseline, none where there is no file. Raises JobError."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"The baseline {path} cannot be read ({error}); name another file.") from error
    try:
        found = json.loads(text)["entries"]
        for entry in found:
            for name in (SPEED, OVERHEAD):
                float(entry["ratios"][name]["least"]), float(entry["ratios"][name]["most"])
            dict(entry["setting"])
    except (ValueError, KeyError, TypeError) as error:
        raise JobError(f"{path} is no baseline; have one written with --write-baseline.") from error
    return list(found)


def write(path: Path, entries: Sequence[dict[str, Any]], new: dict[str, Any]) -> None:
    """Write a baseline in which `new` takes the place of the entry of the same setting. Raises JobError."""
    kept = [entry for entry in entries if entry["setting"] != new["setting"]]
    try:
        path.write_text(json.dumps({"entries": [*kept, new]}, indent=1) + "\n", "utf-8")
    except OSError as error:
        raise JobError(
            f"The baseline cannot be written to {path} ({error.strerror}); name a file in a writable folder."
        ) from error


def complaints(found: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each ratio that is worse than the worst of the baseline's, one if there is no baseline."""
    known = next((entry for entry in entries if entry["setting"] == found["setting"]), None)
    if known is None:
        setting = found["setting"]
        none = f"No baseline was made with these options, ranks ({setting['ranks']}) and cores ({setting['cores']})"
        return [f"{none}, so the ratios are held against nothing; --write-baseline FILE keeps them for the next time."]
    said = []
    for name, meaning in _MEANING.items():
        now, then = found["ratios"][name], known["ratios"][name]
        is_worse = now["p50"] < then["least"] if name == SPEED else now["p50"] > then["most"]
        if is_worse:
            spread = f"{then['least']} to {then['most']}"
            said.append(f"{name} is {now['p50']}, outside the baseline's {spread}: {meaning}.")
    return said
