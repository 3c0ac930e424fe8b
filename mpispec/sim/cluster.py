"""A virtual cluster: the real cores, a virtual clock, costs instead of machines.

Messages between two actors on one plane arrive in order; everything else may happen in any order the costs produce.
The invariants of all cores are checked after every step. Ties are broken by a counter, so a seed repeats a run.
"""

from __future__ import annotations

import heapq
import itertools
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from mpispec.compute.toy import ToyLayer
from mpispec.core.draft import DraftCore
from mpispec.core.effects import (
    AbortCompute,
    AbortDraft,
    CloseSampler,
    Compute,
    ComputeDraft,
    EditCache,
    Effect,
    Emit,
    FinishReason,
    OpenSampler,
    Quit,
    Send,
)
from mpispec.core.events import Computed, Drafted, Event, Received
from mpispec.core.head import HeadCore
from mpispec.core.ids import HEAD, Actor, Plane, Token
from mpispec.core.messages import Prime, Run
from mpispec.core.stage import StageCore
from mpispec.sim.costs import Costs
from mpispec.sim.target import ScriptedDraft, pack_values, run_rows


class Stalled(AssertionError):
    """Nothing is left to happen although requests are unfinished, or too much happened."""


@dataclass
class Answer:
    """What came out for one request."""

    tokens: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    """Virtual time at which each token became final."""
    finish: FinishReason | None = None


@dataclass
class _Job:
    """A compute under way on an actor."""

    done: Callable[[bool], Event]
    """Makes the completion; told whether the compute was given up."""
    serial: int
    is_aborted: bool = False


class VirtualCluster:
    """One head, D stages, at most one draft."""

    def __init__(
        self,
        head: HeadCore,
        stages: list[StageCore],
        draft: tuple[DraftCore, ScriptedDraft] | None,
        costs: Costs,
        vocabulary: int,
        check: bool = True,
    ) -> None:
        self.now = 0.0
        self.steps = 0
        self.answers: defaultdict[int, Answer] = defaultdict(Answer)
        self.busy_s = [0.0] * (len(stages) + 2)
        """Virtual seconds each actor has computed."""
        self._head = head
        self._cores: dict[Actor, HeadCore | StageCore | DraftCore] = {HEAD: head}
        self._cores.update({stage.actor: stage for stage in stages})
        self._layers = {stage.actor: ToyLayer(stage.actor - 1) for stage in stages}
        self._last = stages[-1].actor
        self._drafter: ScriptedDraft | None = None
        if draft is not None:
            self._cores[Actor(len(stages) + 1)], self._drafter = draft
        self._costs = costs
        self._vocabulary = vocabulary
        self._check = check
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._serials = itertools.count()
        self._arrivals: defaultdict[tuple[Actor, Actor, Plane], float] = defaultdict(float)
        self._jobs: dict[Actor, _Job] = {}
        self._primed: tuple[Token, ...] = ()
        """Prompt of the request that the draft has heard of last."""
        self.quit: set[Actor] = set()

    @property
    def actors(self) -> set[Actor]:
        """Everyone in the cluster."""
        return set(self._cores)

    def at(self, when: float, event: Event) -> None:
        """Tell the head something at a virtual time."""
        self._schedule(when, lambda: self._tell(HEAD, event))

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

    def _tell(self, actor: Actor, event: Event) -> None:
        core = self._cores[actor]
        if isinstance(event, Received) and isinstance(event.message, Prime):
            self._primed = event.message.tokens
        effects = core.handle(event, self.now)
        if self._check:
            core.check()
        for effect in effects:
            self._perform(actor, effect)

    def _perform(self, actor: Actor, effect: Effect) -> None:
        match effect:
            case Send():
                self._send(actor, effect)
            case Compute():
                self._compute(actor, effect)
            case ComputeDraft():
                self._compute_draft(actor, effect)
            case AbortCompute() | AbortDraft():
                self._abort(actor)
            case EditCache(edits):
                self._layers[actor].edit(edits)
            case Emit(request, tokens, finish, _):
                answer = self.answers[request]
                assert answer.finish is None, f"request {request} went on after its end"
                answer.tokens += tokens
                answer.times += [self.now] * len(tokens)
                answer.finish = finish
            case Quit():
                self.quit.add(actor)
            case OpenSampler(opened):
                if isinstance(self._cores[actor], DraftCore):
                    assert self._drafter is not None
                    self._drafter.open(opened, self._primed)
            case CloseSampler():
                pass  # the toy decides without parameters

    def _send(self, src: Actor, send: Send) -> None:
        size = len(send.payload) if send.payload is not None else 0
        lane = (src, send.dst, send.plane)
        arrival = max(self._arrivals[lane], self.now + self._costs.link(*lane, size))
        self._arrivals[lane] = arrival
        event = Received(src, send.message, send.payload)
        self._schedule(arrival, lambda: self._tell(send.dst, event))

    def _compute(self, actor: Actor, compute: Compute) -> None:
        run = compute.run
        self._layers[actor].edit(run.edits)
        self._start(
            actor, self._costs.compute(actor, len(run.rows)), lambda given_up: self._computed(actor, compute, given_up)
        )

    def _computed(self, actor: Actor, compute: Compute, given_up: bool) -> Event:
        run: Run = compute.run
        layer = self._layers[actor]
        if given_up:
            half = len(run.rows) // 2
            run_rows(layer, run.rows[:half], compute.payload and compute.payload[: half * 8])
            return Computed(run.run_id, None, (), aborted=True)
        outputs = run_rows(layer, run.rows, compute.payload)
        if actor != self._last:
            return Computed(run.run_id, pack_values(outputs), (), aborted=False)
        decided = [Token(value % self._vocabulary) for row, value in zip(run.rows, outputs, strict=True) if row.decide]
        return Computed(run.run_id, None, tuple(decided), aborted=False)

    def _compute_draft(self, actor: Actor, step: ComputeDraft) -> None:
        assert self._drafter is not None
        self._drafter.edit(step.run.edits)
        self._start(actor, self._costs.draft(len(step.run.rows)), lambda given_up: self._drafted(step, given_up))

    def _drafted(self, step: ComputeDraft, given_up: bool) -> Event:
        assert self._drafter is not None
        rows = step.run.rows
        if given_up:
            self._drafter.compute(rows[: len(rows) // 2], step.branch)
            return Drafted(step.run.run_id, (), aborted=True)
        return Drafted(step.run.run_id, self._drafter.compute(rows, step.branch), aborted=False)

    def _start(self, actor: Actor, seconds: float, done: Callable[[bool], Event]) -> None:
        assert actor not in self._jobs, f"actor {actor} computes two things at once"
        job = _Job(done, next(self._serials))
        self._jobs[actor] = job
        self.busy_s[actor] += seconds
        self._schedule(self.now + seconds, lambda: self._finish(actor, job))

    def _abort(self, actor: Actor) -> None:
        job = self._jobs[actor]
        delay = self._costs.abort()
        if delay is not None and not job.is_aborted:
            job.is_aborted = True
            self._schedule(self.now + delay, lambda: self._finish(actor, job))

    def _finish(self, actor: Actor, job: _Job) -> None:
        if self._jobs.get(actor) is not job:
            return  # given up before its time
        del self._jobs[actor]
        self._tell(actor, job.done(job.is_aborted))
