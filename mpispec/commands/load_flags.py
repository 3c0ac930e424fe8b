"""The options that describe a load, the same for real servers and for virtual time."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click

from mpispec.commands.flags import with_flags
from mpispec.load import Lengths, Load


class LengthRange(click.ParamType[Lengths]):
    """A length, or a range of them as `20-200`; becomes `Lengths`."""

    name = "number, or range like 20-200"

    def __init__(self, least: int = 1) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Lengths:
        """Return both ends."""
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"(\d{1,7})(?:-(\d{1,7}))?", str(value))
        low, high = (int(found[1]), int(found[2] or found[1])) if found else (0, -1)
        if not self._least <= low <= high:
            self.fail(f"{value!r} is no length; write a number from {self._least} on, or a range like 20-200.")
        return low, high


def load_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Add `rate`, `concurrency` and `cancel`, which say how requests come and go."""
    positive = click.FloatRange(min=0.0, min_open=True)
    return with_flags(
        command,
        click.option("--rate", type=positive, help="Poisson arrivals, so many a second on average."),
        click.option("--concurrency", type=click.IntRange(min=1), help="Clients that ask again after each answer."),
        click.option(
            "--cancel",
            type=click.FloatRange(0.0, 1.0),
            default=0.0,
            show_default=True,
            metavar="SHARE",
            help="Share of the requests whose client hangs up midway.",
        ),
    )


def describe(load: Load, unit: str) -> str:
    """Return a load in words; `unit` is what prompts are measured in."""
    if load.rate is not None:
        coming = f"arriving at random, {load.rate:g} a second (Poisson)"
    else:
        coming = f"from {load.concurrency} {'client' if load.concurrency == 1 else 'clients'} in a closed loop"
    hung_up = f", each given up midway with chance {load.cancel_share:g}" if load.cancel_share else ""
    return (
        f"{load.num_requests} requests {coming}{hung_up}; prompts of {_lengths(load.prompt)} {unit}, "
        f"answers of {_lengths(load.answer)} tokens; seed {load.seed}"
    )


def _lengths(lengths: Lengths) -> str:
    low, high = lengths
    return str(low) if low == high else f"{low} to {high}"
