"""A rank's models are freed when its loop has ended, and stay where a thread may still compute with one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mpispec.compute.base import Arithmetic, Cancelled, Floats
from mpispec.core.ids import Actor, Plane
from mpispec.core.messages import CacheOp, Run, Sampling
from mpispec.runtime import job
from mpispec.runtime.engine import Engine, Generation
from mpispec.runtime.group import Group
from mpispec.runtime.job import FrontEnd
from mpispec.runtime.loading import Models
from mpispec.runtime.plan import Plan, StagePlace
from mpispec.runtime.row_costs import PipelineCosts
from mpispec.runtime.setup import JobOptions, Setup
from mpispec.transport.loopback import LoopbackTransport
from mpispec.wire.fields import PeerProtocolError

pytestmark = pytest.mark.unit

PATIENCE = 30.0
VOCABULARY = 4
GENERATION = Generation((1,), 1, Sampling(), "plain", "none")


class Computing:
    """A `StageModel` that computes until a test lets it go, and knows whether it has been freed."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.released = threading.Event()
        self.is_closed = False

    def apply(self, cache_ops: Sequence[CacheOp]) -> None:
        """There is no cache."""

    def forward(self, run: Run, activations: Floats | None, cancelled: Cancelled) -> Floats | None:
        """See `StageModel.forward`."""
        self.begun.set()
        self.released.wait(PATIENCE)
        return np.zeros((len(run.rows), VOCABULARY), np.float32)

    def close(self) -> None:
        """See `StageModel.close`."""
        self.is_closed = True


class Application(FrontEnd[None]):
    """Uses the engine as a test wants."""

    def __init__(self, group: Group, application: Callable[[Engine, Group], None]) -> None:
        self._group, self._application = group, application

    def options(self) -> JobOptions:
        return JobOptions()

    def open(self, group: Group, setup: Setup) -> frozenset[int]:
        return frozenset()

    def serve(self, engine: Engine) -> None:
        self._application(engine, self._group)


def run_alone(model: Computing, application: Callable[[Engine, Group], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a job of one rank whose only stage is `model`."""
    costs = PipelineCosts((1.0,), 0.0, 0.0, 1.0, 1.0, (0.001,), is_row_exact=True)
    plan = Plan(1, (StagePlace(0, 0, 0),), None)
    summary: Any = SimpleNamespace(path=Path("toy"), width=4, vocabulary=VOCABULARY, quantised=True, certified=True)
    setup = Setup(summary, None, plan, ("here",), (1,), 16)
    group = Group(LoopbackTransport())
    monkeypatch.setattr(job, "joined", lambda: nullcontext(group))
    monkeypatch.setattr(job, "prepare", lambda *_: setup)
    monkeypatch.setattr(job, "check_memory", lambda *_: None)
    monkeypatch.setattr(job, "load", lambda *_: Models({Actor(1): model}, None, {Actor(1): Arithmetic()}))
    monkeypatch.setattr(job, "pipeline_costs", lambda *_: [costs])
    job.run_job(Application(group, application))


def test_a_model_that_computes_is_not_freed_when_the_loop_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Computing()

    def application(engine: Engine, group: Group) -> None:
        engine.submit(GENERATION, lambda _: None)
        assert model.begun.wait(PATIENCE)
        group.transport.send(0, Plane.CONTROL, (b"no frame",))

    with pytest.raises(PeerProtocolError):
        run_alone(model, application, monkeypatch)
    assert not model.is_closed
    model.released.set()


def test_models_are_freed_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ended = Computing(), threading.Event()
    model.released.set()

    def application(engine: Engine, group: Group) -> None:
        engine.submit(GENERATION, lambda progress: ended.set() if progress.finish else None)
        assert ended.wait(PATIENCE)
        assert not model.is_closed

    run_alone(model, application, monkeypatch)
    assert model.is_closed
