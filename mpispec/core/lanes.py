"""The pipelines of a head: one for all runs or, where requests have cells of their own, another one for prompts.

A row that comes behind a run of a prompt passes the stages no sooner than that run. So prompts take a way of their own
through the same stages, whose runs keep an order of their own; a stage that computes a run of a prompt gives way to the
rows of others (ADR 0048). What computes a request's cells is in one lane at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from mpispec.core.config import FIRST_READING, HeadConfig
from mpispec.core.ids import Actor, RunId, SeqId, relays
from mpispec.core.in_flight import RunInFlight, RunsInFlight, Segment
from mpispec.core.messages import Result
from mpispec.core.request import Request
from mpispec.core.scheduler import Scheduler, Share


class Lane:
    """Stages in a row, and the runs between them."""

    def __init__(self, config: HeadConfig, before: Actor, first_run: RunId) -> None:
        """The stages follow the address `before`; runs are numbered from `first_run` on."""
        self.runs = RunsInFlight(config, first_run)
        self.scheduler = Scheduler(config, self.runs)
        self.first = Actor(before + 1)
        self.relays = relays(before, before, config.num_stages)
        """Stages to which we send a cancel; they pass it on to the others."""
        self.prompts: Lane | None = None
        """The lane of prompts, where this one is that of all other rows."""
        self._sequences = config.sequences
        self._caches: dict[RunId, int] = {}
        """By run in flight, the number of the cache that it writes, where each request has one."""
        self._writing: Counter[int] = Counter()
        """The same counted by cache; no zeros."""

    @property
    def is_scarce(self) -> bool:
        """Whether prompts on their own way leave these runs little of the stages' time (core/allowance.py)."""
        return self.prompts is not None and bool(self.prompts.runs)

    def plan(self, requests: Sequence[Request]) -> list[Share]:
        """See `Scheduler`; where time is scarce without draft tokens, which take it from newest tokens."""
        shares = self.scheduler.plan(requests)
        if not self.is_scarce:
            return shares
        return [share._replace(nodes=share.nodes[:1]) for share in shares if share.num_needed]

    def dispatch(self, segments: Iterable[Segment], seq: SeqId) -> RunInFlight:
        """Count a run as in flight that computes cells with this sequence id; see `RunsInFlight`."""
        run = self.runs.dispatch(segments)
        cache = self._caches[run.run_id] = seq // self._sequences
        self._writing[cache] += 1
        return run

    def answered(self, result: Result) -> RunInFlight:
        """Take a run out; see `RunsInFlight`."""
        run = self.runs.answered(result)
        cache = self._caches.pop(run.run_id)
        self._writing[cache] -= 1
        if not self._writing[cache]:
            del self._writing[cache]
        return run

    def writes(self, seq: SeqId) -> bool:
        """Tell whether a run in flight, be it cancelled, may still write the cache of this sequence id."""
        return seq // self._sequences in self._writing

    @property
    def caches(self) -> set[int]:
        """Numbers of the caches that runs in flight may write."""
        return {*self._writing}


class Lanes:
    """All lanes of a head; at first every request is in the first one."""

    def __init__(self, config: HeadConfig) -> None:
        befores = [(config.actor, RunId(0))]
        if config.readers is not None:
            befores.append((config.readers, FIRST_READING))
        self.all = [Lane(config, before, first_run) for before, first_run in befores]
        self.main = self.all[0]
        self.main.prompts = self.all[1] if len(self.all) > 1 else None
        self.others = self.main.scheduler.others

    def __len__(self) -> int:
        return sum(len(lane.runs) for lane in self.all)

    @property
    def num_rows(self) -> int:
        """Deciding rows in flight that have not died."""
        return sum(lane.runs.num_rows for lane in self.all)

    @property
    def oldest(self) -> RunId:
        """A run that is to be answered next; there must be one."""
        return next(lane.runs.oldest for lane in self.all if lane.runs)

    def begun(self, run_id: RunId, now: float) -> None:
        """Take a credit. Rows may have to wait for prompts, so their runs say nothing of their cost then."""
        self.of_run(run_id).runs.begun(run_id, now, not self.main.is_scarce)

    def of_run(self, run_id: RunId) -> Lane:
        """Return the lane of a run."""
        return self.all[-1] if run_id >= FIRST_READING else self.main

    def of(self, request: Request) -> Lane:
        """Return the lane of a request."""
        return next(lane for lane in self.all if lane.runs is request.runs)

    def for_cache(self, seq: SeqId) -> Lane:
        """Return the lane in which a request with the cache of this sequence id has to begin."""
        return next((lane for lane in self.all if lane.writes(seq)), self.main)

    def assign(self, requests: Iterable[Request]) -> list[Lane]:
        """Move requests to where they belong, what reads its prompt out of the way of others; return the lanes.

        Not as long as runs in flight may write its cells, be they of the request before it: cells are written, and
        operations on them applied, in order of dispatch.
        """
        for request in requests if len(self.all) > 1 else ():
            lane, wanted = self.of(request), self._wanted(request)
            if lane is not wanted and not lane.writes(request.seq):
                request.runs = wanted.runs
        return self.all

    def in_lane(self, lane: Lane, requests: Iterable[Request]) -> list[Request]:
        """Return the requests that may have runs in a lane.

        One that belongs into the other waits until it can go there, or endless draft tokens would keep it among the
        prompts; but not where it is alone, as nobody is in its way.
        """
        if len(self.all) == 1:
            return [*requests]
        is_alone = self.others.load == 1
        mine = [request for request in requests if request.runs is lane.runs]
        return [request for request in mine if is_alone or lane is self._wanted(request)]

    def _wanted(self, request: Request) -> Lane:
        return self.all[-1] if request.is_behind else self.main

    def check(self) -> None:
        """Assert the invariants; tests call it after every event."""
        for lane in self.all:
            lane.runs.check()
        for one, other in pairwise(self.all):
            assert not one.caches & other.caches, "a cache is written in two lanes at once"
