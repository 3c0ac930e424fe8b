"""Spreads independent studies over the cores of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Point = TypeVar("Point")
Found = TypeVar("Found")

_LONG = 60_000
"""Stages x tokens from which processes pay for their start, about half a second each."""


def spread(work: Callable[[Point], Found], points: Sequence[Point], sizes: Sequence[int]) -> Iterator[Found]:
    """Yield the outcome of each point in order; `sizes` say how much work each is."""
    num_processes = min(len(os.sched_getaffinity(0)), len(points))
    if num_processes < 2 or sum(sizes) < _LONG:
        yield from map(work, points)
        return
    # Spawned, not forked: the command line has loaded libraries with threads of their own.
    with multiprocessing.get_context("spawn").Pool(num_processes, _leave_interrupts_to_the_parent) as pool:
        # The last strategies are the costliest to simulate, so they start first.
        pending = [pool.apply_async(work, (point,)) for point in reversed(points)]
        for found in reversed(pending):
            yield found.get()


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
