"""Where the loop of each rank spends its time: cProfile on the driver's threads, which do everything in turns.

Only the loop is profiled, not loading. cProfile slows small Python functions down more than large ones and than
calls into C, so its shares find suspects; scripts/bench-hop measures what one costs. The models' arithmetic appears
as the function that calls it.

Started by scripts/profile-rank.
"""

from __future__ import annotations

import cProfile
import pstats
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from mpispec.runtime.driver import Driver
from mpispec.transport.environment import launched_rank

_TOP = 14
_SLEEPS = "<built-in method select.select>"
_LOCKS = "<method 'acquire' of '_thread.lock' objects>"
_FOLLOWS = "waiting for a turn to lead"
_ASLEEP = (_SLEEPS, _FOLLOWS)
_ONE_THREAD_FROM = (3, 12)
"""Since this version of Python only one thread can be profiled at a time."""


class Spent(NamedTuple):
    """Own time of one function in the loop, in seconds."""

    function: str
    calls: int
    own: float


@click.group()
def main() -> None:
    """Profile the loop of every rank."""


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def record(folder: Path, arguments: tuple[str, ...]) -> None:
    """Run `mpispec ARGUMENTS` on this rank; leave FOLDER/rank-N.prof."""
    if sys.version_info >= _ONE_THREAD_FROM:
        raise click.UsageError("Python 3.12 and later profile one thread only; make the environment with 3.10 or 3.11.")
    profilers: list[cProfile.Profile] = []
    serve, run = Driver._serve, Driver.run

    def profiled(driver: Driver) -> None:
        profilers.append(cProfile.Profile())
        with profilers[-1]:
            serve(driver)

    def recorded(driver: Driver) -> None:
        run(driver)
        pstats.Stats(*profilers).dump_stats(folder / f"rank-{launched_rank()}.prof")

    setattr(Driver, "_serve", profiled)  # noqa: B010  the loop itself stays free of hooks
    setattr(Driver, "run", recorded)  # noqa: B010
    sys.argv = ["mpispec", *arguments]
    runpy.run_module("mpispec", run_name="__main__")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True))
def show(folder: Path) -> None:
    """Print where each rank's loop spent its time awake."""
    for file in sorted(folder.glob("rank-*.prof"), key=lambda path: int(path.stem.partition("-")[2])):
        click.echo("\n".join(lines(file.stem.replace("-", " "), spent(file))))


def spent(file: Path) -> list[Spent]:
    """Return the own time of every function, longest first."""
    stats: dict[tuple[str, int, str], tuple[int, int, float, float, Any]] = vars(pstats.Stats(str(file)))["stats"]
    found = []
    for place, (_, calls, own, _, callers) in stats.items():
        for caller, (_, its_calls, its_own, _) in callers.items() if place[2] == _LOCKS else ():
            if caller[2] == "wait":  # a condition's lock is not one that two threads want
                found.append(Spent(_FOLLOWS, its_calls, its_own))
                calls, own = calls - its_calls, own - its_own  # noqa: PLW2901
        found.append(Spent(_name(*place), calls, own))
    return sorted(found, key=lambda one: -one.own)


def lines(rank: str, functions: list[Spent]) -> Iterator[str]:
    """Yield a rank's table; shares are of the time awake."""
    asleep = sum(one.own for one in functions if one.function in _ASLEEP)
    awake = max(sum(one.own for one in functions) - asleep, 1e-9)
    yield f"{rank}: awake {awake:.3f} s, asleep {asleep:.3f} s"
    for one in [one for one in functions if one.function not in _ASLEEP][:_TOP]:
        each = one.own / max(1, one.calls) * 1e6
        yield f"  {one.own / awake:6.1%}  {one.calls:7d} calls  {each:8.1f} us each  {one.function}"


def _name(file: str, line: int, function: str) -> str:
    if line == 0:
        return function
    path = Path(file)
    return f"{path.parent.name}/{path.name}:{line} {function}"
