"""The models of a rank and what they have to do: jobs in order, each on the thread that comes upon it.

ctypes and numpy release the GIL while they compute, so the driver's other threads go on meanwhile.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from mpispec.compute.base import ExitModel, Floats, StageModel, StageOutput, StageRun, Together
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
from mpispec.core.ids import Actor
from mpispec.core.messages import Run
from mpispec.runtime.decider import Decider
from mpispec.trace import Trace
from mpispec.wire.activations import pack, unpack

Job = Compute | ComputeDraft | ApplyCacheOps | OpenSampler | CloseSampler
Completion = Computed | Drafted

BRIEF_S = 0.0005
"""A job of at most this many seconds may keep messages of its rank waiting; calling another thread costs a tenth."""


class Worker(ABC):
    """What computes for one actor or several, on one thread at a time.

    All but `do`, which is outside of it, is called under the driver's guard.
    """

    def __init__(self, trace: Trace) -> None:
        self.busy_s = 0.0
        """Seconds spent in jobs."""
        self._trace = trace
        self._jobs: deque[tuple[Actor, Job]] = deque()
        self._is_busy = False
        self._row_s = BRIEF_S
        """Seconds a row took the last time."""
        self._between: Callable[[Worker], None] | None = None

    def attach(self, between: Callable[[Worker], None]) -> None:
        """Say by what a job that gives way has others done in its midst."""
        self._between = between

    @property
    def is_ready(self) -> bool:
        """Whether there is a job and nobody is at one."""
        return bool(self._jobs) and not self._is_busy

    def put(self, actor: Actor, job: Job) -> None:
        """Queue a job of an actor."""
        self._jobs.append((actor, job))

    def take(self) -> list[tuple[Actor, Job]]:
        """Begin what is to be done next, the oldest job; the caller must `do` it."""
        self._is_busy = True
        return [self._jobs.popleft()]

    def take_between(self) -> list[tuple[Actor, Job]]:
        """Begin what is to be done in the midst of a job that gives way; nothing where none does."""
        return []

    def is_brief(self, jobs: Sequence[tuple[Actor, Job]]) -> bool:
        """Tell whether jobs are likely to be over in `BRIEF_S`."""
        return _num_rows(jobs) * self._row_s < BRIEF_S

    def do(self, jobs: Sequence[tuple[Actor, Job]]) -> list[tuple[Actor, Completion]]:
        """Do the jobs that were taken; return the answers of those that have one."""
        start = time.monotonic()
        answers = self._do(jobs)
        spent = time.monotonic() - start
        self.busy_s += spent
        if num_rows := _num_rows(jobs):
            self._row_s = spent / num_rows
        self._is_busy = False
        return answers

    @abstractmethod
    def abort(self, request: AbortCompute | AbortDraft) -> None:
        """Ask for a run under way to be given up."""

    @abstractmethod
    def _do(self, jobs: Sequence[tuple[Actor, Job]]) -> list[tuple[Actor, Completion]]:
        """Do the jobs, record those that compute, and return the answers."""


class ModelWorker(Worker):
    """Computes for one actor with one model, a job at a time."""

    def __init__(self, name: str, trace: Trace, model: StageModel, decider: Decider | None = None) -> None:
        super().__init__(trace)
        self.name = name
        self._model = model
        self._decider = decider or Decider()
        self._aborted = -1
        """The newest run that was asked to be given up; runs compute in increasing order."""
        self._computing = -1

    def put(self, actor: Actor, job: Job) -> None:
        """See `Worker`."""
        if isinstance(job, Compute | ComputeDraft):
            self._computing = job.run.run_id
        super().put(actor, job)

    def abort(self, request: AbortCompute | AbortDraft) -> None:
        """See `Worker`."""
        self._aborted = request.run_id if isinstance(request, AbortCompute) else self._computing

    def _do(self, jobs: Sequence[tuple[Actor, Job]]) -> list[tuple[Actor, Completion]]:
        ((actor, job),) = jobs
        start = time.monotonic()
        completion = self._answer(job)
        if completion is None:
            return []
        assert isinstance(job, Compute | ComputeDraft), "only what computes is answered"
        self._trace.computed(self.name, start, time.monotonic(), job, completion)
        return [(actor, completion)]

    @abstractmethod
    def _compute(self, job: Compute | ComputeDraft) -> Completion:
        """Do what is answered."""

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


class StageWorker(ModelWorker):
    """Computes a layer range and, on the last stage, decides the tokens."""

    def __init__(
        self,
        name: str,
        trace: Trace,
        model: StageModel,
        is_last: bool,
        wire: str,
        width: int,
        decider: Decider | None = None,
    ) -> None:
        """Without a `decider` no request may have a grammar."""
        self._is_last = is_last
        self._wire = wire
        self._width = width
        super().__init__(name, trace, model, decider)

    def begun(self, job: Compute) -> StageRun:
        """Apply a run's cache operations; return what is to be computed."""
        run = job.run
        self._prepare(run)
        activations = self._activations(job.payload, len(run.rows))
        return StageRun(self._model, run, activations, lambda: self._aborted == run.run_id)

    def finished(self, run: Run, output: StageOutput | None) -> Computed:
        """Return the answer to a run, with the tokens where this is the last stage."""
        if output is None:
            return Computed(run.run_id, None, (), aborted=True)
        if not self._is_last:
            return Computed(run.run_id, pack(output.hidden, self._wire), (), aborted=False)
        tokens = self._decider.decide(run.rows, output.logits)
        scores = self._decider.scores(run.rows, output.logits, tokens)
        return Computed(run.run_id, None, tokens, aborted=False, scores=scores)

    def prepare(self, job: Job) -> None:
        """Do a job that has no answer."""
        self._answer(job)

    def _compute(self, job: Compute | ComputeDraft) -> Completion:
        assert isinstance(job, Compute)
        return self.finished(job.run, self._output(self.begun(job)))

    def _output(self, begun: StageRun) -> StageOutput | None:
        output = begun.stage.forward(begun.run, begun.activations, begun.cancelled)
        return None if output is None else StageOutput(hidden=output, logits=output)

    def _activations(self, payload: Payload, num_rows: int) -> Floats | None:
        return None if payload is None else unpack(payload, self._wire, num_rows, self._width)


class ExitWorker(StageWorker):
    """Computes a layer range and drafts, from its output, what the last stage will decide."""

    def __init__(
        self, name: str, trace: Trace, model: ExitModel, wire: str, width: int, decider: Decider | None = None
    ) -> None:
        """See `StageWorker`."""
        self._leaving = model
        super().__init__(name, trace, model, False, wire, width, decider)

    def finished(self, run: Run, output: StageOutput | None) -> Computed:
        """Return the answer to a run, with what the exit drafts."""
        computed = super().finished(run, output)
        if output is None:
            return computed
        drafted = self._decider.successors(run.rows, output.logits, 1)
        return computed._replace(draft_tokens=tuple(first for first, *_ in drafted))

    def _output(self, begun: StageRun) -> StageOutput | None:
        both = self._leaving.forward_and_exit(begun.run, begun.activations, begun.cancelled)
        return None if both is None else StageOutput(*both)


class CycleWorker(Worker):
    """Computes for stages that share their weights: what all of them have to do goes through these in one pass."""

    def __init__(self, trace: Trace, stages: Mapping[Actor, StageWorker], together: Together) -> None:
        super().__init__(trace)
        self._stages = stages
        self._together = together

    def take(self) -> list[tuple[Actor, Job]]:
        """See `Worker`: all jobs, of which every stage has at most one that computes, its newest."""
        self._is_busy = True
        jobs = [*self._jobs]
        self._jobs.clear()
        return jobs

    def abort(self, request: AbortCompute | AbortDraft) -> None:
        """See `Worker`. Only one of the stages has that run."""
        for stage in self._stages.values():
            stage.abort(request)

    def _do(self, jobs: Sequence[tuple[Actor, Job]]) -> list[tuple[Actor, Completion]]:
        start = time.monotonic()
        computing = [(actor, job) for actor, job in jobs if isinstance(job, Compute)]
        for actor, job in jobs:
            if not isinstance(job, Compute):
                self._stages[actor].prepare(job)
        outputs = self._together([self._stages[actor].begun(job) for actor, job in computing]) if computing else []
        end = time.monotonic()
        answers: list[tuple[Actor, Completion]] = []
        for (actor, job), output in zip(computing, outputs, strict=True):
            answer = self._stages[actor].finished(job.run, output)
            self._trace.computed(self._stages[actor].name, start, end, job, answer)
            answers.append((actor, answer))
        # The deepest first: the head then knows what was rejected before it hears what exits draft.
        return sorted(answers, reverse=True, key=lambda answer: answer[0])


def _num_rows(jobs: Sequence[tuple[Actor, Job]]) -> int:
    return sum(len(job.run.rows) for _, job in jobs if isinstance(job, Compute | ComputeDraft))


class DraftWorker(ModelWorker):
    """Drafts with a whole small model, under the same noise as the target (design, Deciding)."""

    def _compute(self, job: Compute | ComputeDraft) -> Completion:
        assert isinstance(job, ComputeDraft)
        run = job.run
        self._prepare(run)
        logits = self._model.forward(run, None, lambda: self._aborted == run.run_id)
        if logits is None:
            return Drafted(run.run_id, (), aborted=True)
        return Drafted(run.run_id, self._decider.successors(run.rows, logits, job.branch), aborted=False)
