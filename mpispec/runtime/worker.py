"""The models of a rank and what they have to do: jobs in order, each on the thread that comes upon it.

ctypes and numpy release the GIL while they compute, so the driver's other threads go on meanwhile.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque

from mpispec.compute.base import ExitModel, Floats, StageModel
from mpispec.core.effects import (
    AbortCompute,
    AbortDraft,
    ApplyCacheOps,
    CloseSampler,
    Compute,
    ComputeDraft,
    OpenSampler,
)
from mpispec.core.events import Computed, Drafted, Payload
from mpispec.core.messages import Run
from mpispec.runtime.decider import Decider
from mpispec.runtime.trace import Trace
from mpispec.wire.activations import pack, unpack

Job = Compute | ComputeDraft | ApplyCacheOps | OpenSampler | CloseSampler
Completion = Computed | Drafted

BRIEF_S = 0.0005
"""A job of at most this many seconds may keep messages of its rank waiting; calling another thread costs a tenth."""


class Worker(ABC):
    """One model, used by one thread at a time: `take` and `put` under the driver's guard, `do` outside of it."""

    def __init__(self, name: str, trace: Trace, model: StageModel) -> None:
        self.name = name
        self.busy_s = 0.0
        """Seconds spent in jobs."""
        self._trace = trace
        self._model = model
        self._decider = Decider()
        self._aborted = -1
        """The newest run that was asked to be given up; runs compute in increasing order."""
        self._computing = -1
        self._jobs: deque[Job] = deque()
        self._is_busy = False
        self._row_s = BRIEF_S
        """Seconds a row of the last run took."""

    @property
    def is_ready(self) -> bool:
        """Whether there is a job and nobody is at one."""
        return bool(self._jobs) and not self._is_busy

    def put(self, job: Job) -> None:
        """Queue a job."""
        if isinstance(job, Compute | ComputeDraft):
            self._computing = job.run.run_id
        self._jobs.append(job)

    def take(self) -> Job:
        """Begin the next job; the caller must `do` it."""
        self._is_busy = True
        return self._jobs.popleft()

    def is_brief(self, job: Job) -> bool:
        """Tell whether a job is likely to be over in `BRIEF_S`."""
        return not isinstance(job, Compute | ComputeDraft) or len(job.run.rows) * self._row_s < BRIEF_S

    def abort(self, request: AbortCompute | AbortDraft) -> None:
        """Ask for the run under way to be given up."""
        self._aborted = request.run_id if isinstance(request, AbortCompute) else self._computing

    def do(self, job: Job) -> Completion | None:
        """Do the job that was taken; return its answer, if it has one."""
        start = time.monotonic()
        completion = self._answer(job)
        end = time.monotonic()
        self.busy_s += end - start
        if isinstance(job, Compute | ComputeDraft) and completion is not None:
            self._row_s = (end - start) / len(job.run.rows)
            self._trace.computed(self.name, start, end, job, completion)
        self._is_busy = False
        return completion

    @abstractmethod
    def _compute(self, job: Compute | ComputeDraft) -> Completion:
        """Do what is answered."""

    def _forward(self, run: Run, activations: Floats | None) -> Floats | None:
        """Apply a run's cache operations and compute its rows."""
        self._prepare(run)
        return self._model.forward(run, activations, lambda: self._aborted == run.run_id)

    def _prepare(self, run: Run) -> None:
        if run.cache_ops:
            self._model.apply(run.cache_ops)
        self._decider.note(run.rows)

    def _answer(self, job: Job) -> Completion | None:
        match job:
            case Compute() | ComputeDraft():
                return self._compute(job)
            case ApplyCacheOps(cache_ops):
                self._model.apply(cache_ops)
            case OpenSampler(opened):
                self._decider.open(opened)
            case CloseSampler(request):
                self._decider.close(request)
        return None


class StageWorker(Worker):
    """Computes a layer range and, on the last stage, decides the tokens."""

    def __init__(self, name: str, trace: Trace, model: StageModel, is_last: bool, wire: str, width: int) -> None:
        self._is_last = is_last
        self._wire = wire
        self._width = width
        super().__init__(name, trace, model)

    def _compute(self, job: Compute | ComputeDraft) -> Completion:
        assert isinstance(job, Compute)
        run = job.run
        output = self._forward(run, self._activations(job.payload, len(run.rows)))
        if output is None:
            return Computed(run.run_id, None, (), aborted=True)
        if not self._is_last:
            return Computed(run.run_id, pack(output, self._wire), (), aborted=False)
        return Computed(run.run_id, None, self._decider.decide(run.rows, output), aborted=False)

    def _activations(self, payload: Payload, num_rows: int) -> Floats | None:
        return None if payload is None else unpack(payload, self._wire, num_rows, self._width)


class ExitWorker(StageWorker):
    """Computes a layer range and drafts, from its output, what the last stage will decide."""

    def __init__(self, name: str, trace: Trace, model: ExitModel, wire: str, width: int) -> None:
        self._leaving = model
        super().__init__(name, trace, model, False, wire, width)

    def _compute(self, job: Compute | ComputeDraft) -> Completion:
        assert isinstance(job, Compute)
        run = job.run
        self._prepare(run)
        activations = self._activations(job.payload, len(run.rows))
        both = self._leaving.forward_and_exit(run, activations, lambda: self._aborted == run.run_id)
        if both is None:
            return Computed(run.run_id, None, (), aborted=True)
        output, logits = both
        draft_tokens = tuple(first for first, *_ in self._decider.successors(run.rows, logits, 1))
        return Computed(run.run_id, pack(output, self._wire), (), aborted=False, draft_tokens=draft_tokens)


class DraftWorker(Worker):
    """Drafts with a whole small model, under the same noise as the target (design, Deciding)."""

    def _compute(self, job: Compute | ComputeDraft) -> Completion:
        assert isinstance(job, ComputeDraft)
        run = job.run
        logits = self._forward(run, None)
        if logits is None:
            return Drafted(run.run_id, (), aborted=True)
        return Drafted(run.run_id, self._decider.successors(run.rows, logits, job.branch), aborted=False)
