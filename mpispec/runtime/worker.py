"""The compute threads of a rank: take a job, watch the cancel flag, post one completion (design, The loop of a rank).

The main thread owns MPI and the cores; ctypes and numpy release the GIL while a worker computes.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

from mpispec.compute.base import ComputeError, Floats, StageModel
from mpispec.core.effects import (
    AbortCompute,
    AbortDraft,
    CloseSampler,
    Compute,
    ComputeDraft,
    EditCache,
    OpenSampler,
)
from mpispec.core.events import Computed, Drafted, Payload
from mpispec.core.messages import Run
from mpispec.runtime.decider import Decider
from mpispec.runtime.trace import Trace
from mpispec.wire.activations import pack, unpack

Job = Compute | ComputeDraft | EditCache | OpenSampler | CloseSampler
Completion = Computed | Drafted

_CLOSE_SECONDS = 60.0


class Worker(ABC):
    """One thread that owns one model. Jobs are done in order; at most one of them is answered at a time."""

    def __init__(self, name: str, wake: Callable[[], None], trace: Trace, model: StageModel) -> None:
        self.name = name
        self.busy_s = 0.0
        """Seconds spent in jobs."""
        self._wake = wake
        self._trace = trace
        self._model = model
        self._decider = Decider()
        self._aborted = -1
        """The newest run that was asked to be given up; runs compute in increasing order."""
        self._computing = -1
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._completions: deque[Completion | BaseException] = deque()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    def put(self, job: Job) -> None:
        """Queue a job."""
        if isinstance(job, Compute | ComputeDraft):
            self._computing = job.run.run_id
        self._jobs.put(job)

    def abort(self, request: AbortCompute | AbortDraft) -> None:
        """Ask for the run under way to be given up."""
        self._aborted = request.run_id if isinstance(request, AbortCompute) else self._computing

    def poll(self) -> Completion | None:
        """Return the next completion, if any; raises what the worker's thread raised."""
        if not self._completions:
            return None
        completion = self._completions.popleft()
        if isinstance(completion, BaseException):
            raise completion
        return completion

    def close(self) -> None:
        """End the thread after the jobs it has; ComputeError if they do not end."""
        self._jobs.put(None)
        self._thread.join(_CLOSE_SECONDS)
        if self._thread.is_alive():
            raise ComputeError(f"{self.name} is still computing {_CLOSE_SECONDS:.0f} s after the job ended.")

    @abstractmethod
    def _compute(self, job: Compute | ComputeDraft) -> Completion:
        """Do what is answered."""

    def _forward(self, run: Run, activations: Floats | None) -> Floats | None:
        """Apply a run's edits and compute its rows."""
        if run.edits:
            self._model.edit(run.edits)
        self._decider.note(run.rows)
        return self._model.forward(run.rows, activations, lambda: self._aborted == run.run_id)

    def _do(self, job: Job) -> Completion | None:
        match job:
            case Compute() | ComputeDraft():
                return self._compute(job)
            case EditCache(edits):
                self._model.edit(edits)
            case OpenSampler(opened):
                self._decider.open(opened)
            case CloseSampler(request):
                self._decider.close(request)
        return None

    def _loop(self) -> None:
        while (job := self._jobs.get()) is not None:
            start = time.monotonic()
            try:
                completion = self._do(job)
            except BaseException as error:  # re-raised on the main thread by poll
                self._completions.append(error)
                self._wake()
                return
            end = time.monotonic()
            self.busy_s += end - start
            if completion is not None:
                self._completions.append(completion)
                self._wake()
                self._trace.computed(self.name, start, end, job, completion)


class StageWorker(Worker):
    """Computes a layer range and, on the last stage, decides the tokens."""

    def __init__(
        self, name: str, wake: Callable[[], None], trace: Trace, model: StageModel, is_last: bool, wire: str, width: int
    ) -> None:
        self._is_last = is_last
        self._wire = wire
        self._width = width
        super().__init__(name, wake, trace, model)

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


class DraftWorker(Worker):
    """Guesses with a whole small model, under the same noise as the target (design, Deciding)."""

    def _compute(self, job: Compute | ComputeDraft) -> Completion:
        assert isinstance(job, ComputeDraft)
        run = job.run
        logits = self._forward(run, None)
        if logits is None:
            return Drafted(run.run_id, (), aborted=True)
        return Drafted(run.run_id, self._decider.successors(run.rows, logits, job.branch), aborted=False)
