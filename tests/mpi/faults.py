"""A job in which something breaks: `mpirun -np N python -m tests.mpi.faults MODEL PLACE RANK`."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn
from unittest.mock import patch

from mpispec.compute.base import ComputeError
from mpispec.core.ids import Plane
from mpispec.runtime import liveness, loading
from mpispec.runtime.engine import Engine, Generation
from mpispec.runtime.group import Group, JobError
from mpispec.runtime.job import FrontEnd, JobOptions, Setup, run_job
from mpispec.transport import doorbell
from mpispec.transport.base import Frame
from mpispec.transport.environment import launched_rank

_FOREVER_S = 3600.0


def fail(kind: type[Exception]) -> NoReturn:
    """Break."""
    raise kind("broken on purpose")


def broken_load(place: str, bad_rank: int) -> Callable[..., loading.Models]:
    """Return a `load` that breaks on one rank, or whose models break when they compute."""

    def load(options: Any, rank: int, setup: Any, progress: Any) -> loading.Models:
        models = loading.load(options, rank, setup, progress)
        if rank == bad_rank and place == "load":
            fail(RuntimeError)
        if rank == bad_rank and place == "refusal":
            fail(JobError)
        if rank == bad_rank and place in ("worker", "compute"):
            for stage in models.stages.values():
                stage.forward = lambda *_: fail(  # type: ignore[method-assign]
                    RuntimeError if place == "worker" else ComputeError
                )
        return models

    return load


def break_driver(group: Group) -> None:
    """Let the main thread break at the third message that it takes."""
    poll, left = group.transport.poll, [3]

    def breaking(plane: Plane) -> Frame | None:
        frame = poll(plane)
        left[0] -= frame is not None
        return frame if left[0] else fail(RuntimeError)

    group.transport.poll = breaking  # type: ignore[method-assign]


def scatter(bad_rank: int) -> None:
    """Put each rank on a host of its own, one of which lacks the network card that its setting names."""
    rank = launched_rank()
    doorbell.host_identity = lambda: str(rank)
    os.environ[doorbell.VARIABLE] = "nonsense0" if rank == bad_rank else "off"


class Faulty(FrontEnd[None]):
    """Asks for a long answer and breaks at the given place."""

    def __init__(self, model: str, place: str, bad_rank: int) -> None:
        self._model, self._place, self._bad_rank = model, place, bad_rank

    def options(self) -> JobOptions:
        return JobOptions(model=self._model, threads=1)

    def open(self, group: Group, setup: Setup) -> frozenset[int]:
        if self._place == "driver" and group.rank == self._bad_rank:
            break_driver(group)
        return frozenset()

    def serve(self, engine: Engine) -> None:
        engine.submit(Generation((1, 2, 3), 400), lambda progress: None)
        print("running", flush=True)
        if self._place == "application":
            fail(RuntimeError)
        if self._place == "thread":
            threading.Thread(target=fail, args=(RuntimeError,)).start()
        time.sleep(_FOREVER_S)


def main() -> None:
    model, place, bad_rank = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if place == "doorbell":
        scatter(bad_rank)
    if place == "silence":
        liveness.ASK_S = 1.0
    with patch("mpispec.runtime.job.load", broken_load(place, bad_rank)):
        run_job(Faulty(model, place, bad_rank))


if __name__ == "__main__":
    main()
