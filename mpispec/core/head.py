"""The head: owns every request's accepted tokens and tree, dispatches runs, verifies draft tokens.

What is in flight it leaves to `RunsInFlight`, what happens to cells to `CacheOperations`.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence

from mpispec.core.config import MOST_NEW, HeadConfig
from mpispec.core.deadlines import Deadlines
from mpispec.core.effects import Effect, Emit, FinishReason, Quit, Send
from mpispec.core.events import Corrected, Event, ProtocolError, Received, StopRequested, Submitted, Tick, Withdrawn
from mpispec.core.ids import Actor, NodeId, Plane, Pos, RequestId, Token
from mpispec.core.in_flight import Segment
from mpispec.core.lanes import Lane, Lanes
from mpispec.core.messages import (
    Branch,
    Cancel,
    Close,
    Credit,
    Draft,
    EarlyDraft,
    Idle,
    Result,
    Row,
    Run,
    Sampling,
    Score,
    Stop,
    opening,
)
from mpispec.core.occupancy import Occupancy
from mpispec.core.own_caches import caches_of
from mpispec.core.request import Request
from mpispec.core.scheduler import Share
from mpispec.core.silence import Silence
from mpispec.core.strategy import Drafter, Strategy
from mpispec.core.tree import Node, NodeState
from mpispec.core.waiting import Queue, Waiting

_Decided = Mapping[tuple[RequestId, NodeId], Token]
"""Token after each deciding row of a run."""
_Scores = Mapping[tuple[RequestId, NodeId], Score | None]


class HeadCore:
    """The protocol of rank 0."""

    def __init__(
        self,
        config: HeadConfig,
        strategies: Mapping[str, Callable[[], Strategy]],
        drafters: Mapping[str, Callable[[Sampling], Drafter]],
    ) -> None:
        self.config = config
        self._strategies = strategies
        self._drafters = drafters
        self._waiting = Queue()
        self._deadlines = Deadlines()
        self._active: dict[RequestId, Request] = {}
        self._lanes = Lanes(config)
        self._cache = caches_of(config)
        self.occupancy = Occupancy(config, self._active, self._waiting, self._lanes, self._cache)
        self._epochs = itertools.count()
        """Numbers of texts that are drafted for."""
        self._silence = Silence(config, self._lanes)
        self._stopping = False
        self._out: list[Effect] = []

    # -- events ---------------------------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event; return what to do about it."""
        match event:
            case Received(message=Result() as result):
                self._answered(result)
            case Received(message=Credit(run_id)):
                self._lanes.begun(run_id, now)
            case Received(message=Idle(run_id)):
                self._lanes.of_run(run_id).runs.ran_out(run_id, now)
            case Received(src, (Draft() | EarlyDraft()) as draft):
                self._drafted(src, draft)
            case Submitted():
                self._submit(event)
            case Corrected():
                self._correct(event)
            case Withdrawn(request_id):
                self._withdraw(request_id)
            case StopRequested():
                self._withdraw_everyone()
            case Tick():
                self._look(now)
            case _:
                raise ProtocolError(f"a head cannot handle {event}")
        self._silence.hear(event, now)
        self._end_late(now)
        self._admit(now)
        self._dispatch()
        if self._stopping and not self._lanes:
            self._out += self._stop()
        effects, self._out = self._out, []
        return effects

    @property
    def is_idle(self) -> bool:
        """No request, no run in flight."""
        return not (self._active or self._waiting or self._lanes or self._deadlines)

    def check(self) -> None:
        """Assert the invariants; tests call it after every event."""
        self._lanes.check()
        for request in self._active.values():
            request.check()
        self._cache.check({node.seq for request in self._active.values() for node in request.tree.root.subtree()})

    # -- requests -------------------------------------------------------------------------------------------------

    def _admit(self, now: float) -> None:
        self._lanes.others.load = min(self.config.max_active, len(self._active) + len(self._waiting))
        while self._waiting and len(self._active) < self.config.max_active and not self._stopping:
            waiting = self._waiting.first
            adopted = self._cache.adopt(waiting.tokens, waiting.num_shared)
            if adopted is None:
                return
            self._waiting.remove(waiting)
            drafter = self._drafters.get(waiting.submitted.drafter)
            request = Request(
                waiting,
                *adopted,
                self._strategies[waiting.submitted.strategy](),
                drafter(waiting.submitted.sampling) if drafter else None,
                self.config,
                self._lanes.for_cache(adopted[0].seq).runs,
                self._lanes.others,
            )
            self._active[request.id] = request
            self._out += request.begin(now, self._epochs)

    def _submit(self, submitted: Submitted) -> None:
        if self._stopping:
            self._out.append(Emit(submitted.request, (), "cancelled", None))
        else:
            self._waiting.add(Waiting(submitted))
            self._deadlines.add(submitted.request, submitted.deadline)

    def _look(self, now: float) -> None:
        self._silence.check(now)
        for request in self._active.values():
            request.look(now)

    def _end_late(self, now: float) -> None:
        for request_id in self._deadlines.passed(now):
            self._withdraw(request_id, "timeout")

    def _withdraw(self, request_id: RequestId, reason: FinishReason = "cancelled") -> None:
        self._deadlines.discard(request_id)
        waiting = self._waiting.find(request_id)
        if waiting is not None:
            self._waiting.remove(waiting)
            self._out.append(Emit(request_id, (), reason, waiting.known_statistics))
        elif (request := self._active.get(request_id)) is not None:
            self._out.append(Emit(request_id, (), reason, request.statistics))
            self._end(request)

    def _withdraw_everyone(self) -> None:
        self._stopping = True
        for request_id in [*self._active, *(waiting.request for waiting in self._waiting)]:
            self._withdraw(request_id)

    def _preempt(self, request: Request) -> None:
        """Take an active request's cells; it goes on from where it is when it is its turn again."""
        self._end(request)
        self._waiting.add(request.preempted())

    def _end(self, request: Request) -> None:
        """Cancel what is in flight, keep the cache of the accepted text for a successor."""
        dead = request.tree.prune_children()
        self._send_cancel(request, request.runs.withdraw_all(request.id, dead))
        self._cache.free(dead, request.tree.root)
        self._cache.keep(request.slot, request.cached_tokens())
        self._cache.collect(request.seq)
        self._out += [Send(first, Plane.DATA, Close(request.id)) for first in request.opened]
        self._out += request.end()
        del self._active[request.id]

    def _stop(self) -> list[Effect]:
        actors = [*self.config.stages, *([self.config.draft] if self.config.draft is not None else [])]
        return [*(Send(actor, Plane.CONTROL, Stop()) for actor in actors), Quit()]

    # -- verifications --------------------------------------------------------------------------------------------

    def _answered(self, result: Result) -> None:
        run = self._lanes.of_run(result.run_id).answered(result)
        tokens, scores = result.by_row(result.tokens), result.by_row(result.scores)
        for segment in run.segments.values():
            if not segment.is_cancelled:
                self._decided(self._active[segment.request], segment, tokens, scores)

    def _decided(self, request: Request, segment: Segment, tokens: _Decided, scores: _Scores) -> None:
        """Take what the stages decided after one request's rows of a run."""
        accepted, dead, finish = self._verify(request, segment, tokens)
        request.answered(segment)
        self._send_cancel(request, request.runs.withdraw(request.id, dead))
        found = tuple(score for node in segment.standing if (score := scores.get((request.id, node)))) if scores else ()
        if accepted or found:
            origins = tuple(request.origins)
            self._out.append(Emit(request.id, tuple(accepted), finish, request.statistics, origins, found))
        if finish:
            self._deadlines.discard(request.id)
            self._end(request)
        elif accepted:
            self._out += request.accepted(accepted)

    def _verify(
        self, request: Request, segment: Segment, tokens: _Decided
    ) -> tuple[list[Token], list[Node], FinishReason | None]:
        """Walk a request's rows of a run: a decision counts where its row is the root; others must be dead or decided.

        Returns the tokens accepted, the nodes that died, and why the request ends, if it does.
        """
        accepted: list[Token] = []
        dead: list[Node] = []
        for node in segment.nodes:
            if node is not request.tree.root:
                if node.state is NodeState.DISPATCHED:
                    raise ProtocolError(f"node {node.id} was decided before its parent")
                continue  # dead, or a level received what follows before its own decision came
            token = tokens.get((request.id, node.id))
            if token is None:
                raise ProtocolError(f"a run came back without living node {node.id} of request {request.id}")
            died = request.accept(token)
            self._cache.free(died, request.tree.root)
            dead += died
            accepted.append(token)
            if finish := request.finish_after(token):
                return accepted, dead, finish
        return accepted, dead, None

    def _drafted(self, src: Actor, draft: Draft | EarlyDraft) -> None:
        if isinstance(draft, EarlyDraft):
            self._drafted_early(src, draft)
        elif (request := self._active.get(draft.request)) is not None:
            request.drafted(draft)

    def _drafted_early(self, stage: Actor, early: EarlyDraft) -> None:
        """Take an exit's draft tokens of a run that is still in flight, and cancel what these take back."""
        run = self._lanes.of_run(early.run_id).runs.living(early.run_id)
        if run is None:
            return
        drafted: dict[RequestId, list[tuple[NodeId, Token, float]]] = {}
        for owner, node, token, prob in zip(early.requests, early.nodes, early.tokens, early.probs, strict=True):
            drafted.setdefault(owner, []).append((node, token, prob))
        for segment in run.segments.values():
            if segment.is_cancelled:
                continue
            request = self._active[segment.request]
            for survivor, dead in request.drafted_early(stage, segment, drafted.get(request.id, ())):
                self._cache.free(dead, request.tree.root, survivor)
                self._send_cancel(request, request.runs.withdraw(request.id, dead))

    def _correct(self, event: Corrected) -> None:
        """Replace the end of a level's text by what the level above says it is; all built on the old one is dead."""
        request = self._active.get(event.request)
        if request is None:
            self._correct_waiting(event)
            return
        request.decide_before(event.limit)
        if not event.tokens:
            return
        dead: list[Node] = []
        if event.pos < len(request.tokens):
            dead = request.roll_back(event.pos)
            self._cache.roll_back(request.slot, event.pos)
            request.runs.rolled_back(request.id, event.pos)
        for token in event.tokens:
            dead += request.accept(token)
        self._cache.free(dead, request.tree.root)
        self._send_cancel(request, request.runs.withdraw(request.id, dead))
        self._out += request.accepted(event.tokens)

    def _correct_waiting(self, event: Corrected) -> None:
        waiting = self._waiting.find(event.request)
        if waiting is not None:  # as it is unless the program is ending
            waiting.tokens = (*waiting.tokens[: event.pos], *event.tokens)
            waiting.limit = event.limit

    def _send_cancel(self, request: Request, cancel: Cancel | None) -> None:
        """Send the stages a cancel, if there is one; they may ignore it: cells are freed by the next run (law 3)."""
        if cancel is not None:
            self._out += [Send(stage, Plane.CONTROL, cancel) for stage in self._lanes.of(request).relays]

    # -- dispatching ----------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Fill the pipelines with what the schedulers plan."""
        self._lanes.others.load = len(self._active)
        for lane in self._lanes.assign(self._active.values()):
            self._fill(lane)

    def _fill(self, lane: Lane) -> None:
        active = self._active.values()
        while lane.runs.has_room and lane.scheduler.is_due(len(mine := self._lanes.in_lane(lane, active))):
            shares = lane.plan(self._able(mine))
            segments, rows, branches = self._placed(lane, self._with_room(shares))
            if not segments:
                if all(self._is_active(share.request) for share in shares):
                    return
                continue  # those that had to give up their cells stood in the way of others
            run = lane.dispatch(segments, rows[0].seq)
            for segment in segments:
                request = self._active.pop(segment.request)
                self._active[request.id] = request  # the longest waiting is first next time
                request.dispatched(run.run_id, segment.nodes)
            message = Run(run.run_id, tuple(rows), self._cache.take(rows[0].seq), branches=tuple(branches))
            self._out.append(Send(lane.first, Plane.DATA, message))
            for segment in segments:
                request = self._active[segment.request]
                if segment.given and segment.given[-1] != request.ids[segment.last_pos]:
                    self._cache.truncate(request.seq, request.filled)

    def _able(self, requests: Sequence[Request]) -> list[Request]:
        """Return the requests that may have rows in the next run; of those that have not begun a few, the oldest.

        The one that was admitted first is always among these, for the others may wait for what it is to compute.
        """
        new = [request for request in requests if not request.has_begun]
        if len(new) > MOST_NEW:  # what they may share of other prompts takes time to find
            new = [new[0], *heapq.nsmallest(MOST_NEW - 1, new[1:], key=lambda request: request.rank)]
        begun = [request for request in requests if request.has_begun and not self._must_wait(request)]
        return begun + [request for request in new if not self._waits_for_prefix(request)]

    def _must_wait(self, request: Request) -> bool:
        """Tell whether a request's dead cells must be collected first, which takes that only its text is alive."""
        if request.is_behind:
            return False
        if request.tree.root.state is NodeState.PENDING:
            if self._cache.should_collect(request.seq):
                self._cache.collect(request.seq)
            return False
        return self._cache.must_collect(request.seq)

    def _waits_for_prefix(self, request: Request) -> bool:
        """Share what others have computed of a new prompt; tell whether so much of it is coming that waiting pays."""
        request.catch_up(self._cache.catch_up(request.slot))
        return self._cache.is_coming(request.slot, self.config.chunk)

    def _with_room(self, shares: Sequence[Share]) -> list[Share]:
        """Return what there are cells for of a planned run.

        For rows that a request cannot do without the last in rank gives its cells, be it the request itself; so the
        first in rank ends at some time. Other rows get what is left.
        """
        needed = 0
        for share in sorted(shares, key=lambda share: share.request.rank):
            least = share.num_needed
            while self._is_active(share.request) and self._cache.make_room(needed + least) < needed + least:
                self._preempt(max(self._active.values(), key=lambda request: request.rank))
            needed += least if self._is_active(share.request) else 0
        living = [share for share in shares if self._is_active(share.request)]
        spare = self._cache.make_room(sum(share.num_rows for share in living)) - needed
        cut = []
        for share in living:
            extra = min(spare, share.num_rows - share.num_needed)
            spare -= extra
            cut.append(share if share.chunk else share._replace(nodes=share.nodes[: share.num_needed + extra]))
        return cut

    def _is_active(self, request: Request) -> bool:
        return self._active.get(request.id) is request

    def _placed(self, lane: Lane, shares: Sequence[Share]) -> tuple[list[Segment], list[Row], list[Branch]]:
        """Give the nodes of a planned run sequence ids; return its segments, rows and branches."""
        segments: list[Segment] = []
        rows: list[Row] = []
        branches: list[Branch] = []
        for request, chosen, chunk in shares:
            if chunk:
                mine = request.next_chunk(chunk)
                deciding = [request.tree.root] if mine[-1].node == request.tree.root.id else []
                given = [row.node for row in mine]
                segment = Segment(request.id, request.statistics, deciding, Pos(request.filled - 1), given)
            else:
                placed = self._cache.place(chosen)
                if not placed.nodes:
                    continue
                mine = [request.row(node) for node in placed.nodes]
                branches += placed.branches
                segment = Segment(request.id, request.statistics, placed.nodes, mine[-1].pos)
            # Not before, or requests that come and go while nothing is dispatched would pile up before the stages.
            if lane.first not in request.opened:
                request.opened.append(lane.first)
                opened = opening(request.id, request.sampling, request.tokens, mine[0].pos)
                self._out.append(Send(lane.first, Plane.DATA, opened))
            segments.append(segment)
            rows += mine
        return segments, rows, branches
