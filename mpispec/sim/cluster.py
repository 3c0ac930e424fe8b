"""A virtual cluster: the real cores, a virtual clock, costs instead of machines.

Messages between two actors on one plane arrive in order; everything else may happen in any order the costs produce.
The invariants of all cores are checked after every step. Ties are broken by a counter, so a seed repeats a run.
"""

from __future__ import annotations

import heapq
import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from mpispec.core.draft import DraftCore
from mpispec.core.effects import (
    AbortCompute,
    AbortDraft,
    ApplyCacheOps,
    CloseSampler,
    Compute,
    ComputeDraft,
    Effect,
    Emit,
    FinishReason,
    OpenSampler,
    Quit,
    Send,
)
from mpispec.core.events import Computed, Drafted, DraftToken, Event, Payload, Received
from mpispec.core.head import HeadCore
from mpispec.core.ids import HEAD, Actor, Plane, Token
from mpispec.core.level import LevelCore
from mpispec.core.messages import CacheOp, Message, Row, Run, Score
from mpispec.core.stage import StageCore
from mpispec.core.statistics import Statistics
from mpispec.sim.costs import Costs, SharedCore

_NUM_PLANES = len(Plane)


class Target(Protocol):
    """What computes on all stages of a virtual cluster. A row whose past is missing raises ComputeError."""

    def apply(self, stage: Actor, cache_ops: Sequence[CacheOp]) -> None:
        """Apply cache operations."""

    def compute(self, stage: Actor, run: Run, payload: Payload) -> tuple[Payload, tuple[Token, ...]]:
        """Compute a run; return activations, or the deciding rows' tokens on the last stage."""

    def exit_tokens(self, stage: Actor, run: Run) -> tuple[DraftToken, ...]:
        """Return the exit's draft token after each deciding row of a computed run; nothing without an exit."""

    def give_up(self, stage: Actor, run: Run, payload: Payload) -> None:
        """Compute a part of a run that is given up."""

    def num_bytes(self, payload: bytes | bytearray | memoryview) -> int:
        """Return how many bytes of a link activations stand for."""


class LevelTarget(Target, Protocol):
    """What computes on the stages of a level."""

    def hear(self, message: Message) -> None:
        """Learn what the level receives from above, before it acts on it."""


class DraftModel(Protocol):
    """What computes on the draft rank of a virtual cluster."""

    def apply(self, cache_ops: Sequence[CacheOp]) -> None:
        """Apply cache operations."""

    def hear(self, message: Message) -> None:
        """Learn what the draft rank receives, before it acts on it."""

    def compute(self, rows: Sequence[Row], branch: int) -> tuple[tuple[DraftToken, ...], ...]:
        """Write the rows' cells and return at most `branch` successors of each deciding one, best first."""


class Stalled(AssertionError):
    """Nothing is left to happen although requests are unfinished, or too much happened."""


@dataclass
class Answer:
    """What came out for one request."""

    tokens: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    """Virtual time at which each token became final."""
    scores: list[Score] = field(default_factory=list)
    finish: FinishReason | None = None
    statistics: Statistics | None = None


@dataclass(slots=True, eq=False)
class _Job:
    """A compute under way on an actor."""

    work: Compute | ComputeDraft
    began: float
    is_aborted: bool = False


@dataclass(frozen=True, slots=True)
class Level:
    """A pipeline of a cascade below the target's."""

    core: LevelCore
    stages: list[StageCore]
    target: LevelTarget


class VirtualCluster:
    """One head with its D stages, levels with theirs, at most one draft."""

    def __init__(
        self,
        head: HeadCore,
        stages: list[StageCore],
        draft: tuple[DraftCore, DraftModel] | None,
        costs: Costs,
        target: Target,
        check: bool = True,
        levels: Sequence[Level] = (),
        readers: Sequence[StageCore] = (),
    ) -> None:
        """`target` computes for all stages; `levels` stand between it and the draft, from the top down.

        `readers` are the same stages once more, for prompts (core/lanes.py); their addresses follow all others.
        """
        self.now = 0.0
        self.steps = 0
        self.answers: defaultdict[int, Answer] = defaultdict(Answer)
        self.watch: Callable[[Actor, Effect], None] | None = None
        """Told of every effect of an actor before it is performed; may give events with `at`."""
        self.watch_computed: Callable[[Actor, float, Compute | ComputeDraft, Computed | Drafted], None] | None = None
        """Told of every compute that has ended, and when it began, before its actor learns of it."""
        self._head = head
        self._cores: dict[Actor, HeadCore | LevelCore | StageCore | DraftCore] = {HEAD: head}
        self._targets: dict[Actor, tuple[Target, Actor]] = {}
        """What computes on a stage, and the stage's number in its pipeline."""
        self._listeners: dict[Actor, LevelTarget | DraftModel] = {}
        self._add_stages(stages, target)
        for level in levels:
            actor = Actor(len(self._cores))
            self._cores[actor] = level.core
            self._listeners[actor] = level.target
            self._add_stages(level.stages, level.target)
        self._drafter: DraftModel | None = None
        if draft is not None:
            actor = Actor(len(self._cores))
            self._cores[actor], self._drafter = draft
            self._listeners[actor] = self._drafter
        self._add_stages(readers, target)
        self.busy_s = [0.0] * len(self._cores)
        """Virtual seconds each actor has computed, what was given up included."""
        self._costs, self._check = costs, check
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._serials = itertools.count()
        self._arrivals: defaultdict[int, float] = defaultdict(float)
        """When the last message of each lane arrives, by a number: tuples of enumerations hash slowly."""
        self._jobs: dict[Actor, _Job] = {}
        self._shared: defaultdict[int, SharedCore] = defaultdict(costs.shared_core)
        """Cores on which several actors compute."""
        self.quit: set[Actor] = set()

    def _add_stages(self, stages: Sequence[StageCore], target: Target) -> None:
        for number, stage in enumerate(stages, 1):
            self._cores[stage.actor] = stage
            self._targets[stage.actor] = (target, Actor(number))

    @property
    def actors(self) -> set[Actor]:
        """Everyone in the cluster."""
        return set(self._cores)

    def at(self, when: float, event: Event, actor: Actor = HEAD) -> None:
        """Give the head, or another actor, an event at a virtual time."""
        self._schedule(when, partial(self._deliver, actor, event))

    def run(self, most_steps: int = 1_000_000) -> None:
        """Let everything happen. Raises Stalled, or AssertionError where an invariant breaks."""
        while self._heap:
            self.now, _, action = heapq.heappop(self._heap)
            self.steps += 1
            if self.steps > most_steps:
                raise Stalled(f"no end after {most_steps} steps")
            action()
        if not self._head.is_idle:
            raise Stalled("nothing is under way although the head has work")

    def check_drained(self) -> None:
        """Assert that no run, tombstone, job or branch of the caches has outlived the requests."""
        assert not self._jobs, "something still computes"
        for actor, core in self._cores.items():
            assert core.is_idle, f"actor {actor} is not idle at the end"

    # -- performing effects ---------------------------------------------------------------------------------------

    def _schedule(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (when, next(self._serials), action))

    def _deliver(self, actor: Actor, event: Event) -> None:
        core = self._cores[actor]
        if actor in self._listeners and isinstance(event, Received):
            self._listeners[actor].hear(event.message)
        effects = core.handle(event, self.now)
        if self._check:
            core.check()
        for effect in effects:
            self._perform(actor, effect)

    def _perform(self, actor: Actor, effect: Effect) -> None:
        if self.watch is not None:
            self.watch(actor, effect)
        match effect:
            case Send():
                self._send(actor, effect)
            case Compute():
                self._compute(actor, effect)
            case ComputeDraft():
                self._compute_draft(actor, effect)
            case AbortCompute() | AbortDraft():
                self._abort(actor)
            case ApplyCacheOps(cache_ops):
                self._apply(actor, cache_ops)
            case Emit(request, tokens, finish, statistics, _, scores):
                answer = self.answers[request]
                assert answer.finish is None, f"request {request} went on after its end"
                answer.tokens += tokens
                answer.times += [self.now] * len(tokens)
                answer.finish = finish
                answer.statistics = statistics
                answer.scores += scores
            case Quit():
                self.quit.add(actor)
            case OpenSampler() | CloseSampler():
                pass  # targets here decide without parameters, and drafters learn of a request from its Prime

    def num_bytes(self, src: Actor, send: Send) -> int:
        """Return how many bytes of a link the activations of a message stand for."""
        return self._targets[src][0].num_bytes(send.payload) if send.payload is not None else 0

    def _send(self, src: Actor, send: Send) -> None:
        size = self.num_bytes(src, send)
        dst, plane = send.dst, send.plane
        arrival = self.now + self._costs.link(src, dst, plane, size)
        # One message after the other occupies the wire; only their latencies overlap.
        lane = (src * len(self._cores) + dst) * _NUM_PLANES + plane
        free = self._arrivals[lane] + self._costs.transfer(size)
        self._arrivals[lane] = arrival = arrival if arrival > free else free
        self._schedule(arrival, partial(self._deliver, dst, Received(src, send.message, send.payload)))

    def _compute(self, actor: Actor, compute: Compute) -> None:
        run = compute.run
        self._apply(actor, run.cache_ops)
        self._start(actor, self._costs.compute(actor, len(run.rows)), compute)

    def _apply(self, actor: Actor, cache_ops: Sequence[CacheOp]) -> None:
        target, stage = self._targets[actor]
        target.apply(stage, cache_ops)

    def _compute_draft(self, actor: Actor, step: ComputeDraft) -> None:
        assert self._drafter is not None
        self._drafter.apply(step.run.cache_ops)
        self._start(actor, self._costs.draft(len(step.run.rows)), step)

    def _start(self, actor: Actor, seconds: float, work: Compute | ComputeDraft) -> None:
        assert actor not in self._jobs, f"actor {actor} computes two things at once"
        job = self._jobs[actor] = _Job(work, self.now)
        core = self._costs.core(actor)
        if core is None:
            self._schedule(self.now + seconds, partial(self._finish, actor, job))
        else:
            self._shared[core].begin(actor, seconds, self.now)
            self._foresee(core)

    def _foresee(self, core: int) -> None:
        """Schedule the first end on a shared core; it is void if something changes there before."""
        shared = self._shared[core]
        first = shared.next()
        if first is not None:
            actor, when = first
            self._schedule(when, partial(self._due, core, shared.changes, actor, self._jobs[actor]))

    def _due(self, core: int, changes: int, actor: Actor, job: _Job) -> None:
        if self._shared[core].changes == changes:
            self._finish(actor, job)

    def _computed(self, actor: Actor, compute: Compute, given_up: bool) -> Computed:
        run = compute.run
        target, stage = self._targets[actor]
        if given_up:
            target.give_up(stage, run, compute.payload)
            return Computed(run.run_id, None, (), aborted=True)
        payload, tokens = target.compute(stage, run, compute.payload)
        return Computed(run.run_id, payload, tokens, aborted=False, draft_tokens=target.exit_tokens(stage, run))

    def _drafted(self, step: ComputeDraft, given_up: bool) -> Drafted:
        assert self._drafter is not None
        rows = step.run.rows
        if given_up:
            self._drafter.compute(rows[: len(rows) // 2], step.branch)
            return Drafted(step.run.run_id, (), aborted=True)
        return Drafted(step.run.run_id, self._drafter.compute(rows, step.branch), aborted=False)

    def _abort(self, actor: Actor) -> None:
        job = self._jobs[actor]
        delay = self._costs.abort()
        if delay is not None and not job.is_aborted:
            job.is_aborted = True
            self._schedule(self.now + delay, partial(self._finish, actor, job))

    def _finish(self, actor: Actor, job: _Job) -> None:
        if self._jobs.get(actor) is not job:
            return  # given up before its time
        del self._jobs[actor]
        self.busy_s[actor] += self.now - job.began
        core = self._costs.core(actor)
        if core is not None:
            self._shared[core].end(actor, self.now)
            self._foresee(core)
        work = job.work
        completion: Computed | Drafted
        if isinstance(work, Compute):
            completion = self._computed(actor, work, job.is_aborted)
        else:
            completion = self._drafted(work, job.is_aborted)
        if self.watch_computed is not None:
            self.watch_computed(actor, job.began, work, completion)
        self._deliver(actor, completion)
