"""Where the loop of each rank spends its time: cProfile on the driver's thread, which owns the cores and MPI.

Only the loop is profiled, not loading. cProfile slows small Python functions down more than large ones and than
calls into C, so its shares find suspects; how much one costs, scripts/bench-hop tells. Compute threads do not
appear: a timeline (`generate --trace`) shows them.

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
_ASLEEP = "<built-in method select.select>"


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
    profiler = cProfile.Profile()
    loop = Driver.run

    def profiled(driver: Driver) -> None:
        profiler.enable()
        try:
            loop(driver)
        finally:
            profiler.disable()
            profiler.dump_stats(folder / f"rank-{launched_rank()}.prof")

    setattr(Driver, "run", profiled)  # noqa: B010  the loop itself stays free of hooks
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
    found = [Spent(_name(*place), calls, own) for place, (_, calls, own, _, _) in stats.items()]
    return sorted(found, key=lambda one: -one.own)


def lines(rank: str, functions: list[Spent]) -> Iterator[str]:
    """Yield a rank's table; shares are of the time awake."""
    asleep = sum(one.own for one in functions if one.function == _ASLEEP)
    awake = max(sum(one.own for one in functions) - asleep, 1e-9)
    yield f"{rank}: awake {awake:.3f} s, asleep {asleep:.3f} s"
    for one in [one for one in functions if one.function != _ASLEEP][:_TOP]:
        each = one.own / one.calls * 1e6
        yield f"  {one.own / awake:6.1%}  {one.calls:7d} calls  {each:8.1f} us each  {one.function}"


def _name(file: str, line: int, function: str) -> str:
    if line == 0:
        return function
    path = Path(file)
    return f"{path.parent.name}/{path.name}:{line} {function}"


if __name__ == "__main__":
    main()
