"""The loop of a rank: the same for every role. Feeds events to the cores and performs the effects they ask for.

A rank has one thread more than models, and they take turns (leader and followers: Schmidt et al., POSA 2). One leads:
it waits for messages and handles them. A thread that comes upon a job for a model does it on the spot. If that may take
long, it lets a follower lead meanwhile. So no job and no result changes threads, which would cost 30 to 60 us each way.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from mpispec.core.effects import (
    AbortCompute,
    AbortDraft,
    ApplyCacheOps,
    CloseSampler,
    Compute,
    ComputeDraft,
    Effect,
    Emit,
    OpenSampler,
    Quit,
    Send,
)
from mpispec.core.events import Event, Received, Tick
from mpispec.core.head import HeadCore
from mpispec.core.ids import HEAD, Actor, Plane
from mpispec.core.messages import AskWork, Lost, Message, Run, Stop, Work
from mpispec.core.statistics import RunCounts
from mpispec.runtime.liveness import Liveness
from mpispec.runtime.plan import Plan
from mpispec.runtime.rank_work import RankWork, WorkOfRanks
from mpispec.runtime.worker import Job, Worker
from mpispec.trace import Trace
from mpispec.transport.base import Frame, Transport
from mpispec.wire.codec import decode, encode

_LONGEST_WAIT_S = 1.0
"""Bound of one sleep; the transport wakes for messages, the workers for completions, submitters for requests."""
_TICK_S = 1.0
"""Time between two looks of a head at its deadlines."""


class Core(Protocol):
    """What all cores have in common."""

    def handle(self, event: Event, now: float) -> list[Effect]: ...


class Driver:
    """Runs the cores of one rank over a transport until all of them have quit."""

    def __init__(
        self,
        plan: Plan,
        transport: Transport,
        cores: Mapping[Actor, Core],
        workers: Mapping[Actor, Worker],
        trace: Trace,
        emit: Callable[[Emit, float], None] | None = None,
        liveness: Liveness | None = None,
    ) -> None:
        self.dispatched = RunCounts()
        """Runs of the target's head, where it is on this rank."""
        self._ranks = plan.ranks
        self._names = {actor: plan.role_of(actor) for actor in plan.actors_of(transport.rank)}
        self._own = min(self._names, default=HEAD)
        """An address on this rank."""
        self._transport = transport
        self._cores = dict(cores)
        self._workers = workers
        for worker in workers.values():
            worker.attach(self._work_between)
        self._work_of_ranks = WorkOfRanks(plan.ranks, transport.rank, list(workers.values()))
        self._trace = trace
        self._emit = emit
        self._liveness = liveness or Liveness({}, ())
        self._guard = threading.Lock()
        """Held by the thread that touches cores or transport, which is any but one asleep or computing."""
        self._followers = threading.Condition(self._guard)
        self._is_led = False
        """Whether a thread sleeps until there is something to handle."""
        self._failure: BaseException | None = None
        self._ended = threading.Event()
        self._inbox: deque[Event] = deque()
        """Events for the head from other threads."""
        self._watching = [pipeline.head for pipeline in plan.pipelines if pipeline.head in self._cores]
        """The heads of this rank, the target's or levels': each watches its stages."""
        self._next_tick = 0.0
        self._local: deque[tuple[Actor, Received]] = deque()
        """Messages between actors of this rank; FIFO, so they keep every order that the planes promise."""

    def submit(self, event: Event) -> None:
        """Hand the head an event; may be called from any thread."""
        self._inbox.append(event)
        self._transport.wake()

    def work(self) -> dict[int, RankWork]:
        """Return by rank what it has done since the start; from any thread but those of `run`.

        A rank that does not answer soon is left out.
        """
        return self._work_of_ranks.ask(self._transport.wake)

    def occupancy(self) -> dict[str, int]:
        """Return what the target's head has in use, where it is on this rank; from any thread but those of `run`."""
        with self._guard:
            head = self._cores.get(HEAD)
            return head.occupancy.read() if isinstance(head, HeadCore) else {}

    def run(self) -> None:
        """Return when every core of this rank has quit; raises what a core, a worker or the transport raises."""
        size = len(self._workers) + 1
        crew = [threading.Thread(target=self._serve, name=f"crew {index}", daemon=True) for index in range(size)]
        for thread in crew:
            thread.start()
        while not self._ended.wait(_LONGEST_WAIT_S):
            pass  # Python handles a signal that reached another thread when the main one next runs
        if self._failure is not None:
            raise self._failure
        for thread in crew:
            thread.join()

    def _serve(self) -> None:
        """Work, lead or follow, whichever is needed, until the end."""
        with self._guard:
            try:
                while self._cores and self._failure is None:
                    if (worker := self._waiting()) is not None:
                        self._work(worker)
                    elif self._is_led:
                        self._followers.wait()
                    else:
                        self._lead()
            except BaseException as error:  # raised again by run, on the main thread
                self._failure = self._failure or error
            self._followers.notify_all()
            self._transport.wake()
            self._ended.set()

    def _waiting(self) -> Worker | None:
        """Return a worker that is idle and has something to do."""
        return next((worker for worker in self._workers.values() if worker.is_ready), None)

    def _work(self, worker: Worker) -> None:
        """Do the next job of a worker while the others go on."""
        jobs = worker.take()
        if not worker.is_brief(jobs):
            self._followers.notify()
        self._do(worker, jobs)

    def _work_between(self, worker: Worker) -> None:
        """Do what a worker has to do in the midst of a job that gives way, on the thread that is at it."""
        with self._guard:
            if jobs := worker.take_between():
                self._do(worker, jobs)

    def _do(self, worker: Worker, jobs: Sequence[tuple[Actor, Job]]) -> None:
        self._guard.release()
        try:
            answers = worker.do(jobs)
        finally:
            self._guard.acquire()
        for actor, answer in answers:
            self._tell(actor, answer)
        if self._is_led:
            self._transport.nudge()

    def _lead(self) -> None:
        """Handle what there is; if there is nothing, sleep until there is."""
        if self._turn():
            return
        start = time.monotonic()
        self._is_led = True
        try:
            self._transport.wait(_LONGEST_WAIT_S, self._guard)
        finally:
            self._is_led = False
        if self._trace.is_on:
            self._trace.add("driver", "wait", start, time.monotonic(), {})
        if start >= self._next_tick:
            self._next_tick = start + _TICK_S
            for actor in self._watching:
                self._tell(actor, Tick())
            for question in self._liveness.look(start):
                self._send(self._own, question, start)

    def _turn(self) -> bool:
        """Handle what there is: control first, so that a cancel beats the run it names; one data message."""
        handled = False
        while (frame := self._transport.poll(Plane.CONTROL)) is not None:
            handled = self._receive(frame)
        while self._inbox:
            handled = self._tell(HEAD, self._inbox.popleft())
        for question in self._work_of_ranks.questions():
            self._send(HEAD, question, time.monotonic())
        while (frame := self._transport.poll(Plane.DRAFT)) is not None:
            handled = self._receive(frame)
        if (frame := self._transport.poll(Plane.DATA)) is not None:
            handled = self._receive(frame)
        self._transport.reap()
        return handled

    def _receive(self, frame: Frame) -> bool:
        self._liveness.hear(frame.src)
        src, dst, message, payload = decode(frame.data)
        if isinstance(message, AskWork):
            own = self._work_of_ranks.own
            answer = Work(int(own.busy_s * 1e6), own.sent)
            self._send(dst, Send(src, Plane.CONTROL, answer), time.monotonic())
            return True
        if isinstance(message, Work):
            self._work_of_ranks.heard(self._ranks[src], RankWork(message.busy_us / 1e6, message.sent))
            return True
        if isinstance(message, Lost):
            self._liveness.lost(frame.src, message.rank)
        if isinstance(message, Stop):
            self._liveness.rest()
        return self._tell(dst, Received(src, message, payload))

    def _tell(self, actor: Actor, event: Event) -> bool:
        self._handle(actor, event)
        while self._local:
            self._handle(*self._local.popleft())
        return True

    def _handle(self, actor: Actor, event: Event) -> None:
        core = self._cores.get(actor)
        if core is None:
            return  # it has quit; what still arrives concerns nobody
        now = time.monotonic()
        for effect in core.handle(event, now):
            self._perform(actor, effect, now)

    def _perform(self, actor: Actor, effect: Effect, now: float) -> None:
        match effect:
            case Send():
                self._send(actor, effect, now)
            case Compute() | ComputeDraft() | ApplyCacheOps() | OpenSampler() | CloseSampler():
                self._workers[actor].put(actor, effect)
            case AbortCompute() | AbortDraft():
                self._workers[actor].abort(effect)
            case Emit():
                assert self._emit is not None
                self._trace.emitted(now, effect)
                self._emit(effect, now)
            case Quit():
                del self._cores[actor]

    def _send(self, actor: Actor, send: Send, now: float) -> None:
        rank = self._ranks[send.dst]
        message: Message = send.message
        num_bytes = 0
        if isinstance(message, Stop):
            self._liveness.rest()
        if actor == HEAD and isinstance(message, Run):
            self.dispatched.count(message)
        if rank == self._transport.rank:
            self._local.append((send.dst, Received(actor, message, send.payload)))
        else:
            self._transport.announce(rank)
            parts = encode(actor, send.dst, message, send.payload)
            self._transport.send(rank, send.plane, parts)
            num_bytes = sum(len(part) for part in parts)
            self._work_of_ranks.count_sent(rank, num_bytes)
        if self._trace.is_on:
            self._trace.sent(self._names[actor], now, message, num_bytes)
