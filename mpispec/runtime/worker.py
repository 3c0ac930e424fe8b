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

from mpispec.compute.base import DraftModel, StageModel
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
from mpispec.core.ids import Token
from mpispec.runtime.decider import Decider
from mpispec.runtime.trace import Trace
from mpispec.sampling import decide, probability
from mpispec.wire.activations import pack, unpack

Job = Compute | ComputeDraft | EditCache | OpenSampler | CloseSampler
Completion = Computed | Drafted


class Worker(ABC):
    """One thread that owns one model. Jobs are done in order; at most one of them is answered at a time."""

    def __init__(self, name: str, wake: Callable[[], None], trace: Trace) -> None:
        self.name = name
        self.busy_s = 0.0
        """Seconds spent in jobs."""
        self._wake = wake
        self._trace = trace
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._completions: deque[Completion | BaseException] = deque()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    def put(self, job: Job) -> None:
        """Queue a job."""
        self._jobs.put(job)

    @abstractmethod
    def abort(self, request: AbortCompute | AbortDraft) -> None:
        """Ask for the job under way to be given up."""

    def poll(self) -> Completion | None:
        """Return the next completion, if any; raises what the worker's thread raised."""
        if not self._completions:
            return None
        completion = self._completions.popleft()
        if isinstance(completion, BaseException):
            raise completion
        return completion

    def close(self) -> None:
        """End the thread after the jobs it has."""
        self._jobs.put(None)
        self._thread.join()

    @abstractmethod
    def _do(self, job: Job) -> Completion | None:
        """Do one job."""

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
        self._model = model
        self._wire = wire
        self._width = width
        self._decider = Decider() if is_last else None
        self._aborted = -1
        """The newest run that was asked to be given up; runs compute in increasing order."""
        super().__init__(name, wake, trace)

    def abort(self, request: AbortCompute | AbortDraft) -> None:
        """See `Worker.abort`."""
        assert isinstance(request, AbortCompute)
        self._aborted = request.run_id

    def _do(self, job: Job) -> Completion | None:
        match job:
            case Compute():
                return self._compute(job)
            case EditCache(edits):
                self._model.edit(edits)
            case OpenSampler(opened):
                assert self._decider is not None
                self._decider.open(opened)
            case CloseSampler(request):
                assert self._decider is not None
                self._decider.close(request)
            case ComputeDraft():
                raise TypeError("a stage does not draft")
        return None

    def _compute(self, job: Compute) -> Computed:
        run = job.run
        if run.edits:
            self._model.edit(run.edits)
        received = self._activations(job.payload, len(run.rows))
        output = self._model.forward(run.rows, received, lambda: self._aborted == run.run_id)
        if output is None:
            return Computed(run.run_id, None, (), aborted=True)
        if self._decider is None:
            return Computed(run.run_id, pack(output, self._wire), (), aborted=False)
        self._decider.note(run.rows)
        return Computed(run.run_id, None, self._decider.decide(run.rows, output), aborted=False)

    def _activations(self, payload: Payload, num_rows: int):  # type: ignore[no-untyped-def]
        return None if payload is None else unpack(payload, self._wire, num_rows, self._width)


class DraftWorker(Worker):
    """Guesses with a whole small model, under the same noise as the target (design, Deciding)."""

    def __init__(self, name: str, wake: Callable[[], None], trace: Trace, model: DraftModel) -> None:
        self._model = model
        self._step = 0
        self._aborted = -1
        self._queued = 0
        self._texts: dict[int, list[int]] = {}
        """Tokens fed, by slot: the history that the repeat penalty looks at."""
        super().__init__(name, wake, trace)

    def put(self, job: Job) -> None:
        """See `Worker.put`."""
        self._queued += 1
        super().put(job)

    def abort(self, request: AbortCompute | AbortDraft) -> None:
        """See `Worker.abort`; the only step queued is the one under way."""
        self._aborted = self._queued

    def _do(self, job: Job) -> Completion | None:
        assert isinstance(job, ComputeDraft)
        self._step += 1
        step = self._step
        text = self._texts.setdefault(job.slot, [])
        text[job.keep :] = job.tokens
        logits = self._model.forward(job.slot, job.keep, job.tokens, lambda: self._aborted == step)
        if logits is None:
            return Drafted(job.request, None, 0.0, aborted=True)
        if not job.decide:
            return Drafted(job.request, None, 0.0, aborted=False)
        recent = text[-job.sampling.repeat_last_n :] if job.sampling.repeat_last_n else ()
        token = decide(logits, job.sampling, len(text), recent)
        return Drafted(job.request, Token(token), probability(logits, token), aborted=False)
