"""What is to be compared: systems, each a command line that prints a JSON object, and what they need around them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

from mpispec.bench.errors import BenchError

DEFAULT_FIGURES: Mapping[str, str] = {
    "prompt": "prompt_tokens / timing.prefill_s",
    "decode": "timing.tokens_per_s",
}
"""Tokens a second, out of what `mpispec generate --json` prints."""
_ROUND = "$ROUND"


@dataclass(frozen=True, slots=True)
class System:
    """Something to measure."""

    name: str
    command: str
    """For the shell."""
    figures: Mapping[str, str] = field(default_factory=lambda: dict(DEFAULT_FIGURES))
    """Where each figure stands in the object printed: a path of keys and indices, or one divided by another."""
    text: str = "text"
    """Where the answer stands."""


@dataclass(frozen=True, slots=True)
class Step:
    """Something to do before the first run."""

    command: str
    creates: Path | None = None
    """Not done if this file exists."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """Systems to run in turns."""

    systems: tuple[System, ...]
    title: str = ""
    before: tuple[Step, ...] = ()
    after: tuple[str, ...] = ()
    """Done at the end, whatever happened."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Of all commands, added to ours; `$ROUND` may be left in it."""
    folder: Path = field(default_factory=Path.cwd)
    """Where commands run."""
    lock: Path | None = None
    """Held during the comparison, so that no other one uses the same hosts at the time."""

    def environment_in(self, number: int) -> dict[str, str]:
        """Return the variables of a round; the warm-up, and what comes before and after, have the first one's."""
        return {name: value.replace(_ROUND, str(max(1, number))) for name, value in self.environment.items()}


def read(path: Path, overrides: Mapping[str, str]) -> Scenario:
    """Read a scenario, with values of its environment replaced by `overrides`. Raises BenchError."""
    table = _load(path)
    defaults, given = (_strings(path, name, table.get(name, {})) for name in ("defaults", "environment"))
    try:
        folder = (path.parent / table.get("folder", ".")).resolve()
        environment = _environment({**_unless_set(defaults), **given, **overrides}, folder)
        return Scenario(
            title=_filled(str(table.get("title", path.stem)), environment),
            systems=tuple(_system(path, one) for one in table["systems"]),
            before=tuple(_step(one, environment, folder, overrides) for one in table.get("before", ())),
            after=tuple(str(one) for one in table.get("after", ())),
            environment=environment,
            folder=folder,
            lock=folder / str(table["lock"]) if "lock" in table else None,
        )
    except KeyError as error:
        raise BenchError(f"{path} lacks {error}; docs/methodology.md describes a scenario.") from None
    except (TypeError, AttributeError) as error:
        raise BenchError(f"{path} is no scenario ({error}); docs/methodology.md describes one.") from error


def of_options(options: Sequence[str]) -> Scenario:
    """Make a scenario of `NAME=COMMAND` options. Raises BenchError."""
    systems = []
    for option in options:
        name, separator, command = option.partition("=")
        if not (name.strip() and separator and command.strip()):
            raise BenchError(f"--system {option!r} is not NAME=COMMAND; name it, like --system 'plain=mpispec ...'.")
        systems.append(System(name.strip(), command.strip()))
    return Scenario(tuple(systems), title=", ".join(system.name for system in systems))


def assignments(options: Sequence[str]) -> dict[str, str]:
    """Read `NAME=VALUE` options. Raises BenchError."""
    for option in options:
        if not option.partition("=")[0] or "=" not in option:
            raise BenchError(f"--set {option!r} is not NAME=VALUE; write it like --set TOKENS=64.")
    return {name: value for name, _, value in (option.partition("=") for option in options)}


def check(scenario: Scenario) -> None:
    """Raise BenchError unless there are systems, each with a name of its own."""
    names = [system.name for system in scenario.systems]
    if not names:
        raise BenchError("There is nothing to compare; name a scenario file, or give --system NAME=COMMAND twice.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BenchError(f"There are several systems called {twice[0]!r}; give each a name of its own.")


def _load(path: Path, may_include: bool = True) -> dict[str, Any]:
    """Return the table in a file over that of the file it includes, if it may."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise BenchError(f"The scenario cannot be read from {path} ({error.strerror}); check the path.") from error
    try:
        table = json.loads(text) if path.suffix == ".json" else _toml(path, text)
    except ValueError as error:
        raise BenchError(f"{path} is neither TOML nor, with the suffix .json, JSON: {error}.") from error
    if not isinstance(table, dict):
        raise BenchError(f"{path} does not hold a table; docs/methodology.md describes a scenario.")
    if "include" not in table or not may_include:
        return table
    base = _load(path.parent / str(table["include"]), may_include=False)
    joined = {name: {**base.get(name, {}), **table.get(name, {})} for name in ("defaults", "environment")}
    return {**base, **table, **joined}


def _toml(path: Path, text: str) -> Any:
    if sys.version_info < (3, 11):
        raise BenchError(f"Python reads TOML from 3.11 on; write {path} as JSON, or use a newer Python.")
    import tomllib  # noqa: PLC0415  see above

    return tomllib.loads(text)


def _strings(path: Path, name: str, table: Any) -> dict[str, str]:
    if not isinstance(table, dict) or not all(isinstance(value, str | int | float) for value in table.values()):
        raise BenchError(f"{path}: {name} is a table of plain values, like NAME = 8.")
    return {key: str(value) for key, value in table.items()}


def _unless_set(defaults: Mapping[str, str]) -> dict[str, str]:
    """Return variables with the values that our own environment has for them, as they stand there, else with these."""
    own = {name: os.environ.get(name, "").replace("$", "$$") for name in defaults}
    return {name: own[name] or default for name, default in defaults.items()}


def _environment(given: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Fill `$NAME` in each value with those before it and those of our own environment, but for `$ROUND`."""
    filled = {"PWD": str(folder)}
    for name, value in given.items():
        filled[name] = _filled(value, {"ROUND": _ROUND, **filled})
    return filled


def _filled(text: str, environment: Mapping[str, str]) -> str:
    return os.path.expanduser(Template(text).safe_substitute({**os.environ, **environment}))


def _system(path: Path, table: Mapping[str, Any]) -> System:
    figures = _strings(path, "figures", table.get("figures", dict(DEFAULT_FIGURES)))
    return System(str(table["name"]), str(table["command"]), figures, str(table.get("text", "text")))


def _step(table: Mapping[str, Any], environment: Mapping[str, str], folder: Path, overrides: Mapping[str, str]) -> Step:
    """Read a step. Raises BenchError if it would make what a user has named: a name that was mistyped."""
    creates = table.get("creates")
    if creates is None:
        return Step(str(table["command"]))
    path = folder / _filled(str(creates), environment)
    theirs = next((name for name in overrides if creates == f"${name}"), None)
    if theirs is not None and not path.exists():
        raise BenchError(f"There is no {path}, which --set {theirs} names; check the path, or make it first.")
    return Step(str(table["command"]), path)
