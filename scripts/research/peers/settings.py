"""Settings of llama.cpp that make a difference over several hosts, and how a better choice of them is found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from mpispec.bench.errors import BenchError

_FLAGS = {
    "flash_attn": "--flash-attn",
    "batch": "--batch-size",
    "ubatch": "--ubatch-size",
    "draft_max": "--spec-draft-n-max",
    "draft_min": "--spec-draft-n-min",
    "draft_p_min": "--spec-draft-p-min",
}
_WORTH = 1.01
"""How much faster a setting has to be to be taken: less is chance."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What can be chosen; None leaves the choice to llama.cpp."""

    first_host: str = "rpc"
    """Who computes on the first host: `rpc`, a server like on all others, or `client`, llama-server itself."""
    flash_attn: str | None = None
    batch: int | None = None
    ubatch: int | None = None
    draft_max: int | None = None
    draft_min: int | None = None
    draft_p_min: float | None = None

    def flags(self, has_draft: bool) -> list[str]:
        """Return options of llama-server."""
        chosen = {name: value for name, value in asdict(self).items() if name in _FLAGS and value is not None}
        return [
            word
            for name, value in chosen.items()
            if has_draft or not name.startswith("draft_")
            for word in (_FLAGS[name], str(value))
        ]


@dataclass(frozen=True, slots=True)
class Choice:
    """Values to try for one setting, and the figure by which they are judged."""

    name: str
    values: tuple[Any, ...]
    figure: str = "tokens_per_s"


# One thread a host: thread counts, binding and polling make no difference.
SEARCH_SPLIT = (Choice("first_host", ("client",)),)
SEARCH_ALWAYS = (
    Choice("flash_attn", ("on", "off")),
    Choice("ubatch", (64, 256), "prompt_tokens_per_s"),
)
SEARCH_DRAFT = (
    Choice("draft_max", (2, 4, 8, 16)),
    Choice("draft_p_min", (0.0, 0.4, 0.6, 0.75, 0.9)),
    Choice("draft_min", (2,)),
)


Trial = dict[str, Any]
"""`settings`, `prompt_tokens_per_s`, `tokens_per_s`; or `settings` and `error`."""


def search(
    choices: tuple[Choice, ...], measure: Callable[[Settings], dict[str, float]], known: list[Trial]
) -> Iterator[tuple[Settings, list[Trial]]]:
    """Try the values of one setting after the other, keep each that is faster; yield the best after every trial.

    `known` trials are not repeated. Settings with which llama.cpp fails are recorded and not taken. Raises BenchError
    if it fails as it is.
    """
    trials = list(known)

    def tried(settings: Settings) -> Trial:
        for trial in trials:
            if trial["settings"] == asdict(settings):
                return trial
        trial = {"settings": asdict(settings)}
        try:
            trial.update(measure(settings))
        except BenchError as error:
            trial["error"] = str(error)
        trials.append(trial)
        return trial

    best = Settings()
    reached = tried(best)
    if "error" in reached:
        raise BenchError(str(reached["error"]))
    yield best, trials
    for choice in choices:
        for value in choice.values:
            settings = replace(best, **{choice.name: value})
            trial = tried(settings)
            if "error" not in trial and trial[choice.figure] > _WORTH * reached[choice.figure]:
                best, reached = settings, trial
            yield best, trials


def read(path: Path) -> tuple[Settings, list[Trial]]:
    """Read what a search has written. Raises BenchError."""
    try:
        found = json.loads(path.read_text("utf-8"))
        return Settings(**found["best"]), list(found["trials"])
    except OSError as error:
        raise BenchError(
            f"The settings cannot be read from {path} ({error.strerror}); find some with `scripts/peers/llama-cpp "
            "search`, or leave --settings away for llama.cpp's own."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        names = ", ".join(field.name for field in fields(Settings))
        raise BenchError(
            f'{path} does not hold settings; it should be an object with "best" (of {names}) and "trials".'
        ) from error


def write(path: Path, best: Settings, trials: list[Trial]) -> None:
    """Write what a search has found so far. Raises BenchError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"best": asdict(best), "trials": trials}, indent=1) + "\n", "utf-8")
    except OSError as error:
        raise BenchError(
            f"The settings cannot be written to {path} ({error.strerror}); name a file in a writable folder."
        ) from error
