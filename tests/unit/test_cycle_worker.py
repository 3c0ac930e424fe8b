"""Stages that share their weights: what all of them have to do is computed in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from mpispec.compute.base import Cancelled, Floats, StageOutput, StageRun
from mpispec.core.effects import AbortCompute, ApplyCacheOps, Compute, OpenSampler
from mpispec.core.events import Computed
from mpispec.core.ids import Actor, NodeId, Pos, RequestId, RunId, SeqId, Token
from mpispec.core.messages import CacheOp, CacheOpKind, Open, Row, Run, Sampling
from mpispec.runtime.worker import CycleWorker, ExitWorker, StageWorker
from mpispec.trace import Trace

pytestmark = pytest.mark.unit

WIDTH, VOCABULARY = 4, 8
FIRST, LAST = Actor(1), Actor(2)
DROP = CacheOp(CacheOpKind.DROP, SeqId(0), SeqId(0), Pos(0), -1)


class Cycle:
    """A stage that only passes computed for it may ask."""

    def __init__(self) -> None:
        self.applied: list[CacheOp] = []

    def apply(self, cache_ops: Sequence[CacheOp]) -> None:
        self.applied += cache_ops

    def forward(self, run: Run, activations: Floats | None, cancelled: Cancelled) -> Floats | None:
        raise AssertionError("computed alone")

    def forward_and_exit(
        self, run: Run, activations: Floats | None, cancelled: Cancelled
    ) -> tuple[Floats, Floats] | None:
        raise AssertionError("computed alone")

    def close(self) -> None:
        """Nothing to free."""


class Passes:
    """Notes who computes together; the token after a row is the number of the run that it is in."""

    def __init__(self) -> None:
        self.stages: list[list[object]] = []

    def __call__(self, runs: Sequence[StageRun]) -> list[StageOutput | None]:
        self.stages.append([run.stage for run in runs])
        return [None if run.cancelled() else _output(run) for run in runs]


def _output(run: StageRun) -> StageOutput:
    logits = np.zeros((len(run.run.rows), VOCABULARY), np.float32)
    logits[:, run.run.run_id] = 1.0
    return StageOutput(np.zeros((len(run.run.rows), WIDTH), np.float32), logits)


@pytest.fixture
def passes() -> Passes:
    return Passes()


@pytest.fixture
def cycles() -> dict[Actor, Cycle]:
    return {FIRST: Cycle(), LAST: Cycle()}


@pytest.fixture
def worker(passes: Passes, cycles: dict[Actor, Cycle]) -> CycleWorker:
    trace = Trace(is_on=False)
    stages: dict[Actor, StageWorker] = {
        FIRST: ExitWorker("stage 1", trace, cycles[FIRST], "f32", WIDTH),
        LAST: StageWorker("stage 2", trace, cycles[LAST], is_last=True, wire="f32", width=WIDTH),
    }
    found = CycleWorker(trace, stages, passes)
    for actor in stages:
        found.put(actor, OpenSampler(Open(RequestId(0), Sampling(), 0, ())))
    return found


def compute(run_id: int, *cache_ops: CacheOp, is_first: bool = True) -> Compute:
    row = Row(RequestId(0), NodeId(run_id), NodeId(run_id - 1), Token(1), Pos(run_id), SeqId(0), True)
    payload = None if is_first else np.zeros(WIDTH, np.float32).tobytes()
    return Compute(Run(RunId(run_id), (row,), cache_ops), payload)


def test_all_that_waits_is_computed_in_one_pass_and_the_deepest_answers_first(
    worker: CycleWorker, passes: Passes, cycles: dict[Actor, Cycle]
) -> None:
    worker.put(FIRST, ApplyCacheOps((DROP,)))
    worker.put(FIRST, compute(3))
    worker.put(LAST, compute(2, DROP, is_first=False))
    assert worker.is_ready
    jobs = worker.take()
    assert not worker.is_ready
    (last, second), (first, third) = worker.do(jobs)
    assert isinstance(second, Computed)
    assert isinstance(third, Computed)
    assert (last, second.run_id, second.tokens) == (LAST, 2, (2,))
    assert (first, third.run_id, [token for token, _ in third.draft_tokens]) == (FIRST, 3, [3])
    assert passes.stages == [[cycles[FIRST], cycles[LAST]]]
    assert cycles[FIRST].applied == cycles[LAST].applied == [DROP]


def test_a_run_that_is_given_up_leaves_the_others_alone(worker: CycleWorker) -> None:
    worker.put(FIRST, compute(3))
    worker.put(LAST, compute(2, is_first=False))
    worker.abort(AbortCompute(RunId(3)))
    answers = dict(worker.do(worker.take()))
    assert isinstance(answers[FIRST], Computed)
    assert isinstance(answers[LAST], Computed)
    assert (answers[FIRST].aborted, answers[LAST].aborted) == (True, False)


def test_without_runs_there_is_no_pass(worker: CycleWorker, passes: Passes, cycles: dict[Actor, Cycle]) -> None:
    worker.put(LAST, ApplyCacheOps((DROP,)))
    assert worker.do(worker.take()) == []
    assert cycles[LAST].applied == [DROP]
    assert passes.stages == []
    assert not worker.is_ready
