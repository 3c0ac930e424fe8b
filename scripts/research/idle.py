"""How much CPU a rank takes while nobody asks for anything; target: at most 2 % of a core after 2 s without work.

Started by scripts/bench-idle.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from research.served import served

TARGET = 2.0
"""Percent of a core."""
QUIET_SECONDS = 2.0


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of all threads of a process, to the nanosecond where `stat` counts in 10 ms."""
    return sum(map(_thread_seconds, Path(f"/proc/{pid}/task").glob("*/schedstat")))


def _thread_seconds(schedstat: Path) -> float:
    try:
        return int(schedstat.read_text().split()[0]) / 1e9
    except (FileNotFoundError, ProcessLookupError):  # the thread has ended since it was listed
        return 0.0


@click.command()
@click.option("-n", "num_ranks", type=click.IntRange(min=1), default=4, show_default=True, help="Ranks.")
@click.option("--seconds", type=click.FloatRange(min=0.5), default=5.0, show_default=True, help="How long to look.")
def main(num_ranks: int, seconds: float) -> None:
    """Measure the CPU that each rank of an idle `mpispec serve` takes."""
    with served(num_ranks) as job:
        tokens = job.complete("The capital of France is", 16)
        time.sleep(QUIET_SECONDS)
        start, before = time.monotonic(), [cpu_seconds(rank.pid) for rank in job.ranks]
        time.sleep(seconds)
        after = [cpu_seconds(rank.pid) for rank in job.ranks]
        elapsed = time.monotonic() - start
    percent = [round((later - earlier) / elapsed * 100, 2) for earlier, later in zip(before, after, strict=True)]
    figures = {"ranks": num_ranks, "seconds": round(elapsed, 2), "idle_percent_of_a_core": percent, "target": TARGET}
    click.echo(json.dumps(figures))
    click.echo(
        f"After {tokens} tokens and {QUIET_SECONDS:.0f} s of quiet an idle rank takes {min(percent):.2f} to "
        f"{max(percent):.2f} % of a core; the target is {TARGET:.0f} %.",
        err=True,
    )
