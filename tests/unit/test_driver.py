"""The threads of a rank: a long compute does not keep it from listening, and every failure reaches the main thread."""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from collections.abc import Sequence

import numpy as np
import pytest

from mpispec.compute.base import Cancelled, ComputeError, Floats
from mpispec.core.effects import AbortCompute, Compute, Effect, Quit
from mpispec.core.events import Computed, Event, StopRequested, Submitted, Tick
from mpispec.core.ids import HEAD, Actor, NodeId, Pos, RequestId, RunId, SeqId, Token
from mpispec.core.messages import CacheOp, Row, Run, Sampling
from mpispec.runtime.driver import Driver
from mpispec.runtime.plan import Plan, StagePlace
from mpispec.runtime.worker import StageWorker
from mpispec.trace import Trace
from mpispec.transport.base import Limits
from mpispec.transport.loopback import LoopbackTransport

pytestmark = pytest.mark.unit

PATIENCE = 30.0
ROW = Row(RequestId(0), NodeId(0), NodeId(-1), Token(1), Pos(0), SeqId(0), True)
SUBMITTED = Submitted(RequestId(0), (Token(1),), 1, frozenset(), Sampling(), "plain", "none")


class Endless:
    """A `StageModel` that computes until it is cancelled, as long as a test has patience."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.failure: ComputeError | None = None

    def apply(self, cache_ops: Sequence[CacheOp]) -> None:
        """There is no cache."""

    def forward(self, run: Run, activations: Floats | None, cancelled: Cancelled) -> Floats | None:
        """See `StageModel.forward`."""
        self.begun.set()
        if self.failure is not None:
            raise self.failure
        while not cancelled():
            pass
        return None

    def close(self) -> None:
        """Nothing to free."""


class Scripted:
    """A core that starts a compute when something is submitted and gives it up when asked to stop."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event."""
        self.events.append(event)
        match event:
            case Submitted():
                return [Compute(Run(RunId(0), (ROW,)), np.zeros(4, np.float32).tobytes())]
            case StopRequested():
                return [AbortCompute(RunId(0))]
            case Computed():
                return [Quit()]
        return []


def make_driver(model: Endless, core: Scripted) -> Driver:
    plan = Plan(1, (StagePlace(0, 0, 0),), None)
    transport = LoopbackTransport(Limits.for_rows(1, 16))
    trace = Trace(is_on=False)
    worker = StageWorker("stage 1", trace, model, is_last=False, wire="f32", width=4)
    return Driver(plan, transport, {HEAD: core}, {HEAD: worker}, trace)


def run_alongside(driver: Driver) -> tuple[threading.Thread, list[BaseException]]:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            driver.run()
        except ComputeError as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, failures


def test_a_rank_listens_while_it_computes() -> None:
    model, core = Endless(), Scripted()
    driver = make_driver(model, core)
    thread, failures = run_alongside(driver)
    driver.submit(SUBMITTED)
    assert model.begun.wait(PATIENCE)
    driver.submit(StopRequested())
    thread.join(PATIENCE)
    assert not thread.is_alive() and not failures
    handled = [event for event in core.events if not isinstance(event, Tick)]
    assert handled == [SUBMITTED, StopRequested(), Computed(RunId(0), None, (), aborted=True)]


def callers(thread: int) -> list[str]:
    """Return the functions that a thread is in, the innermost first."""
    return [frame.f_code.co_name for frame, _ in traceback.walk_stack(sys._current_frames()[thread])]


def test_a_signal_that_reached_another_thread_is_handled() -> None:
    model, core = Endless(), Scripted()
    driver = make_driver(model, core)

    def ask() -> None:
        driver.submit(SUBMITTED)
        model.begun.wait(PATIENCE)
        while callers(main)[:3] != ["wait", "wait", "run"]:
            pass  # it still starts threads, and would handle a signal at once
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    main = threading.get_ident()
    before = signal.signal(signal.SIGUSR1, lambda *_: driver.submit(StopRequested()))
    try:
        threading.Thread(target=ask, daemon=True).start()
        driver.run()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert StopRequested() in core.events


def test_the_head_of_a_level_is_reminded_of_its_deadline() -> None:
    """On a rank that has no part of the target."""
    plan = Plan(2, (StagePlace(1, 0, 0),), None, levels=((StagePlace(0, 0, 0),),))
    level, reminded = Actor(2), threading.Event()

    class Listening(Scripted):
        def handle(self, event: Event, now: float) -> list[Effect]:
            reminded.set()
            assert event == Tick()
            return [Quit()]

    transport = LoopbackTransport(Limits.for_rows(1, 16))
    thread, failures = run_alongside(Driver(plan, transport, {level: Listening()}, {}, Trace(is_on=False)))
    assert reminded.wait(PATIENCE)
    thread.join(PATIENCE)
    assert not thread.is_alive() and not failures


def test_a_failed_compute_is_raised_where_the_driver_was_started() -> None:
    model = Endless()
    model.failure = ComputeError("The model is broken; try another.")
    driver = make_driver(model, Scripted())
    thread, failures = run_alongside(driver)
    driver.submit(SUBMITTED)
    thread.join(PATIENCE)
    assert failures == [model.failure]
