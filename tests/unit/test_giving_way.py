"""A stage computes the rows of others in the midst of a prompt's run, for a tenth of its time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mpispec.compute.base import Cancelled, Floats
from mpispec.core.allowance import SHARE, Allowance
from mpispec.core.config import FIRST_READING
from mpispec.core.effects import AbortCompute, ApplyCacheOps, Compute
from mpispec.core.events import Computed
from mpispec.core.ids import Actor, NodeId, Pos, RequestId, RunId, SeqId, Token
from mpispec.core.messages import CacheOp, CacheOpKind, Row, Run
from mpispec.runtime import giving_way
from mpispec.runtime.giving_way import GivingWay, PromptWorker
from mpispec.runtime.worker import StageWorker, Worker
from mpispec.trace import Trace

pytestmark = pytest.mark.unit

ROWS, PROMPTS = Actor(1), Actor(3)
WIDTH = 4
DROP = CacheOp(CacheOpKind.DROP, SeqId(0), SeqId(0), Pos(0), -1)


class Stage:
    """Looks ten times in each run, a second of processor time apart; notes what it computes, in order."""

    def __init__(self) -> None:
        self.now = 0.0
        self.noted: list[str] = []
        self.in_the_midst: Callable[[int], None] = bool  # type: ignore[assignment]

    def apply(self, cache_ops: object) -> None:
        self.noted.append("apply")

    def forward(self, run: Run, activations: Floats | None, cancelled: Cancelled) -> Floats | None:
        is_prompt = run.run_id >= FIRST_READING
        self.noted.append(f"begin {run.run_id % FIRST_READING}" if is_prompt else f"row {run.run_id}")
        for look in range(10 if is_prompt else 1):
            self.now += 1.0
            if is_prompt:
                self.in_the_midst(look)
            if cancelled():
                self.noted.append("given up")
                return None
        if is_prompt:
            self.noted.append("end")
        return np.zeros((len(run.rows), WIDTH), np.float32)

    def close(self) -> None:
        """Nothing to free."""


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage()
    monkeypatch.setattr(giving_way.time, "thread_time", lambda: stage.now)
    return stage


def worker_of(stage: Stage, gives_way: bool = True) -> GivingWay:
    trace = Trace(is_on=False)
    rows = StageWorker("stage 1", trace, stage, False, "f32", WIDTH)
    prompts = PromptWorker("stage 1", trace, stage, False, "f32", WIDTH)
    worker = GivingWay(trace, (ROWS, rows), (PROMPTS, prompts), gives_way)

    def between(found: Worker) -> None:
        if jobs := found.take_between():
            found.do(jobs)

    worker.attach(between)
    return worker


def compute(run_id: int) -> Compute:
    return Compute(
        Run(RunId(run_id), (Row(RequestId(0), NodeId(0), NodeId(-1), Token(1), Pos(0), SeqId(0), True),)), None
    )


def read(worker: GivingWay, number: int = 0) -> Computed:
    worker.put(PROMPTS, compute(FIRST_READING + number))
    ((actor, answer),) = worker.do(worker.take())
    assert actor == PROMPTS and isinstance(answer, Computed)
    return answer


def test_a_row_that_comes_is_computed_at_the_next_look_and_the_second_after_ten_times_as_long(stage: Stage) -> None:
    worker = worker_of(stage)
    stage.in_the_midst = lambda look: worker.put(ROWS, compute(look)) if look in (2, 3) else None
    assert not read(worker).aborted
    assert stage.noted == ["begin 0", "row 2", "end"]
    stage.in_the_midst = bool  # type: ignore[assignment]
    read(worker, 1)
    assert stage.noted[3:] == ["begin 1", "row 3", "end"]
    assert not worker.is_ready


def test_a_prompt_goes_on_before_rows_that_have_had_their_share(stage: Stage) -> None:
    worker = worker_of(stage)
    worker.put(PROMPTS, compute(FIRST_READING))
    for run in (0, 1):
        worker.put(ROWS, compute(run))
    while worker.is_ready:
        worker.do(worker.take())
    assert stage.noted == ["row 0", "begin 0", "row 1", "end"]


def test_without_a_prompt_rows_are_computed_as_they_come(stage: Stage) -> None:
    worker = worker_of(stage)
    for run in range(4):
        worker.put(ROWS, compute(run))
    while worker.is_ready:
        worker.do(worker.take())
    assert stage.noted == [f"row {run}" for run in range(4)]


def test_stages_that_do_not_give_way_take_turns(stage: Stage) -> None:
    worker = worker_of(stage, gives_way=False)
    stage.in_the_midst = lambda look: worker.put(ROWS, compute(look)) if look == 2 else None
    read(worker)
    worker.do(worker.take())
    assert stage.noted == ["begin 0", "end", "row 2"]


def test_a_prompt_that_is_cancelled_while_it_gives_way_is_given_up_and_the_row_is_not(stage: Stage) -> None:
    worker = worker_of(stage)
    answers: list[object] = []

    def between(found: Worker) -> None:
        if jobs := found.take_between():
            found.abort(AbortCompute(RunId(FIRST_READING)))
            answers.extend(found.do(jobs))

    worker.attach(between)
    stage.in_the_midst = lambda look: worker.put(ROWS, compute(7)) if look == 4 else None
    assert read(worker).aborted
    assert stage.noted == ["begin 0", "row 7", "given up"]
    ((actor, answer),) = answers  # type: ignore[misc]
    assert actor == ROWS and not answer.aborted


def test_cache_operations_without_rows_are_applied_in_their_turn(stage: Stage) -> None:
    worker = worker_of(stage)
    stage.in_the_midst = lambda look: worker.put(ROWS, ApplyCacheOps((DROP,))) if look == 0 else None
    read(worker)
    assert stage.noted == ["begin 0", "apply", "end"]


def test_what_others_take_is_paid_back() -> None:
    allowance = Allowance()
    assert allowance.is_there
    allowance.took(2.0)
    allowance.read(2.0 / SHARE - 0.5)
    assert not allowance.is_there
    allowance.read(3.0)
    assert allowance.is_there
    allowance.took(1.0)
    assert allowance.owed == pytest.approx(1.0 / SHARE), "what prompts take beyond it is not saved up"
