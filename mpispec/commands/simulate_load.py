"""`mpispec simulate --requests N`: a server under load in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from mpispec.commands.flags import with_flags
from mpispec.commands.load_flags import LengthRange, describe, load_flags
from mpispec.commands.load_table import load_lines
from mpispec.load import Load
from mpispec.sim.inputs import StudyError
from mpispec.sim.load import MOST_REQUESTS, LoadOutcome
from mpispec.sim.study import PROMPT_TOKENS, Study

_MOST_AT_ONCE = 64
"""As `mpispec serve --parallel`."""


def request_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that `is_load` and `load_of` read."""
    return with_flags(
        command,
        click.option(
            "--requests",
            type=click.IntRange(1, MOST_REQUESTS),
            default=1,
            show_default=True,
            help="More than one, or any of the next five: what clients of a server under load get.",
        ),
        load_flags,
        click.option("--parallel", type=click.IntRange(1, _MOST_AT_ONCE), help="Requests at once; others wait."),
        click.option("--prompt-tokens", type=LengthRange(), metavar="A[-B]", help="Of each prompt, drawn evenly."),
    )


def is_load(flags: dict[str, Any]) -> bool:
    """Return whether a server under load is asked for, and not how fast one answer is."""
    given = ("rate", "concurrency", "parallel", "prompt_tokens")
    return flags["requests"] > 1 or flags["cancel"] > 0.0 or any(flags[name] is not None for name in given)


def load_of(flags: dict[str, Any], study: Study) -> tuple[Study, Load]:
    """Return the load, and the study with as many requests at once as the server takes. Raises StudyError."""
    if flags["rate"] is not None and flags["concurrency"] is not None:
        raise StudyError("--rate has requests come by themselves and --concurrency by clients that wait; give one.")
    num_requests = flags["requests"]
    parallel = flags["parallel"] or min(num_requests, _MOST_AT_ONCE)
    load = Load(
        num_requests,
        flags["prompt_tokens"] or (PROMPT_TOKENS, PROMPT_TOKENS),
        flags["tokens"],
        flags["rate"],
        flags["concurrency"] or parallel,
        flags["cancel"],
        flags["seed"],
    )
    return replace(study, num_requests=parallel), load


def load_report(outcomes: Sequence[LoadOutcome], conditions: Sequence[str], load: Load, remark: str) -> list[str]:
    """Return what came out, for people."""
    columns = {outcome.strategy: outcome.figures for outcome in outcomes}
    return [*conditions, describe(load, "tokens"), "", *load_lines(columns), "", remark]


def draw_load(png: Path, outcomes: Sequence[LoadOutcome], conditions: Sequence[str], load: Load) -> None:
    """Draw what came out."""
    from mpispec.drawing.load_plot import draw  # noqa: PLC0415  matplotlib is slow to load

    title = "mpispec simulate: a server under load, virtual time, scripted text and acceptance"
    foot = "\n".join([*conditions, describe(load, "tokens")])
    draw(png, title, foot, {outcome.strategy: outcome.served for outcome in outcomes})
