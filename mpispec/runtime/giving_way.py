"""A stage that computes prompts on a way of their own, and in the midst of them the rows of others (ADR 0048)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from mpispec.compute.base import StageRun
from mpispec.core.allowance import Allowance
from mpispec.core.effects import AbortCompute, AbortDraft, Compute
from mpispec.core.ids import Actor
from mpispec.runtime.worker import Completion, Job, StageWorker, Worker
from mpispec.trace import Trace


class PromptWorker(StageWorker):
    """Computes a stage's runs of prompts; where it looks whether one was cancelled, others may have their turn."""

    pause: Callable[[], object] = bool

    def begun(self, job: Compute) -> StageRun:
        """See `StageWorker`."""
        begun = super().begun(job)

        def cancelled() -> bool:
            self.pause()
            return begun.cancelled()

        return begun._replace(cancelled=cancelled)


class GivingWay(Worker):
    """Computes for a stage on both its ways, one run at a time: a prompt's run goes on after the runs of others.

    Where the backend does not give way they take turns.
    """

    def __init__(
        self, trace: Trace, rows: tuple[Actor, StageWorker], prompts: tuple[Actor, PromptWorker], gives_way: bool
    ) -> None:
        super().__init__(trace)
        self._workers: dict[Actor, StageWorker] = dict((rows, prompts))
        self._reader, reading = prompts
        self._prompts: deque[tuple[Actor, Job]] = deque()
        self._allowance = Allowance()
        self._since = 0.0
        """When the run of a prompt was last begun, looked at or gone on with, in processor time of its thread: where
        other programs take the core from a stage, that is no debt of those who decode."""
        self._is_between = False
        """Whether rows of others are computed in the midst of a prompt's run."""
        if gives_way:
            reading.pause = self._pause

    @property
    def is_ready(self) -> bool:
        """See `Worker`."""
        return bool(self._jobs or self._prompts) and not self._is_busy

    def put(self, actor: Actor, job: Job) -> None:
        """See `Worker`."""
        (self._prompts if actor == self._reader else self._jobs).append((actor, job))

    def take(self) -> list[tuple[Actor, Job]]:
        """See `Worker`: what others wait for, unless they have had their share."""
        self._is_busy = True
        is_first = self._jobs and (self._allowance.is_there or not self._prompts)
        return [(self._jobs if is_first else self._prompts).popleft()]

    def take_between(self) -> list[tuple[Actor, Job]]:
        """See `Worker`."""
        self._is_between = bool(self._jobs) and self._allowance.is_there
        return [self._jobs.popleft()] if self._is_between else []

    def do(self, jobs: Sequence[tuple[Actor, Job]]) -> list[tuple[Actor, Completion]]:
        """See `Worker`; what is done between is in the time of the run in whose midst it is."""
        if not self._is_between:
            return super().do(jobs)
        try:
            return self._do(jobs)
        finally:
            self._is_between = False

    def abort(self, request: AbortCompute | AbortDraft) -> None:
        """See `Worker`. Runs of the two ways have different numbers."""
        for worker in self._workers.values():
            worker.abort(request)

    def _do(self, jobs: Sequence[tuple[Actor, Job]]) -> list[tuple[Actor, Completion]]:
        ((actor, _),) = jobs
        start = self._since = time.thread_time()
        answers = self._workers[actor].do(jobs)
        if actor == self._reader:
            self._look()
        elif self._is_between or self._prompts:
            self._allowance.took(time.thread_time() - start)
        return answers

    def _look(self) -> None:
        """Note for how long a prompt has been computed."""
        now = time.thread_time()
        self._allowance.read(now - self._since)
        self._since = now

    def _pause(self) -> None:
        """Do what others have to do, as far as they may."""
        self._look()
        while self._between is not None and self._jobs and self._allowance.is_there:
            self._between(self)
        self._since = time.thread_time()
