"""The head: owns every request's accepted tokens and tree, dispatches runs, verifies draft tokens.

What is in flight it leaves to `RunsInFlight`, what happens to cells to `CacheOperations`.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from mpispec.core.cache_operations import CacheOperations
from mpispec.core.config import HeadConfig
from mpispec.core.effects import Effect, Emit, FinishReason, Quit, Send
from mpispec.core.events import Corrected, Event, ProtocolError, Received, StopRequested, Submitted, Tick, Withdrawn
from mpispec.core.ids import Actor, NodeId, Plane, Pos, RequestId, Token, relays
from mpispec.core.in_flight import RunInFlight, RunsInFlight
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
    Stop,
    opening,
)
from mpispec.core.request import Request
from mpispec.core.strategy import Drafter, Strategy
from mpispec.core.tree import Node, NodeState
from mpispec.core.waiting import Waiting


class HeadCore:
    """The protocol of rank 0."""

    def __init__(
        self,
        config: HeadConfig,
        strategies: Mapping[str, Callable[[], Strategy]],
        drafters: Mapping[str, Callable[[], Drafter]],
    ) -> None:
        self.config = config
        self._strategies = strategies
        self._drafters = drafters
        self._waiting: deque[Waiting] = deque()
        self._active: dict[RequestId, Request] = {}
        self._runs = RunsInFlight(config)
        self._stages = frozenset(config.stages)
        self._first = config.stages[0]
        self._relays = relays(config.actor, config.actor, config.num_stages)
        """Stages to which we send a cancel; they pass it on to the others."""
        if config.cells is not None and config.cells < config.context:
            raise ValueError(f"a context of {config.context} positions needs more than {config.cells} cells")
        self._cache = CacheOperations(
            config.sequences,
            config.max_active,
            config.prefill,
            config.traits.freeing,
            config.traits.shares_cells,
            config.cells,
        )
        self._epochs = itertools.count()
        """Numbers of texts that are drafted for."""
        self._last_sign = 0.0
        """When a stage last sent a message, or no run was in flight."""
        self._stopping = False
        self._out: list[Effect] = []

    # -- events ---------------------------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event; return what to do about it."""
        match event:
            case Received(message=Result() as result):
                self._answered(result)
            case Received(message=Credit(run_id)):
                self._runs.begun(run_id, now)
            case Received(message=Idle(run_id)):
                self._runs.ran_out(run_id, now)
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
                self._check_deadline(now)
            case _:
                raise ProtocolError(f"a head cannot handle {event}")
        # A message of a drafter, or of a level above, is no sign of life of the stages.
        if not self._runs or (isinstance(event, Received) and event.src in self._stages):
            self._last_sign = now
        self._admit(now)
        self._dispatch()
        if self._stopping and not self._runs:
            self._out += self._stop()
        effects, self._out = self._out, []
        return effects

    @property
    def is_idle(self) -> bool:
        """No request, no run in flight."""
        return not (self._active or self._waiting or self._runs)

    def check(self) -> None:
        """Assert the invariants; tests call it after every event."""
        self._runs.check()
        for request in self._active.values():
            request.check()
        self._cache.check({node.seq for request in self._active.values() for node in request.tree.root.subtree()})

    # -- requests -------------------------------------------------------------------------------------------------

    def _admit(self, now: float) -> None:
        while self._waiting and len(self._active) < self.config.max_active and not self._stopping:
            waiting = self._waiting[0]
            adopted = self._cache.adopt(waiting.tokens, len(waiting.prompt))
            if adopted is None:
                return
            slot, common = adopted
            self._waiting.popleft()
            drafter = self._drafters.get(waiting.submitted.drafter)
            request = Request(
                waiting,
                slot,
                common,
                self._strategies[waiting.submitted.strategy](),
                drafter() if drafter else None,
                self.config,
                self._runs,
            )
            self._active[request.id] = request
            self._out += request.begin(now, self._epochs)

    def _submit(self, submitted: Submitted) -> None:
        if self._stopping:
            self._out.append(Emit(submitted.request, (), "cancelled", None))
        else:
            self._waiting.append(Waiting(submitted))

    def _check_deadline(self, now: float) -> None:
        if self._runs and now - self._last_sign > self.config.deadline_s:
            raise ProtocolError(
                f"no stage of {self.config.name} has been heard of for {now - self._last_sign:.0f} s "
                f"while run {self._runs.oldest} is under way: a host hangs or its network is down"
            )
        for request in self._active.values():
            request.look(now)

    def _withdraw(self, request_id: RequestId) -> None:
        for waiting in self._waiting:
            if waiting.request == request_id:
                self._waiting.remove(waiting)
                self._out.append(Emit(request_id, (), "cancelled", waiting.known_statistics))
                return
        request = self._active.get(request_id)
        if request is not None:
            self._out.append(Emit(request_id, (), "cancelled", request.statistics))
            self._end(request)

    def _withdraw_everyone(self) -> None:
        self._stopping = True
        for request_id in [*self._active, *(waiting.request for waiting in self._waiting)]:
            self._withdraw(request_id)

    def _preempt(self, request: Request) -> None:
        """Take an active request's cells; it goes on from where it is, first of all that wait."""
        self._end(request)
        self._waiting.appendleft(request.preempted())

    def _end(self, request: Request) -> None:
        """Cancel what is in flight, keep the cache of the accepted text for a successor."""
        dead = request.tree.prune_children()
        self._send_cancel(self._runs.withdraw_all(request.id, dead))
        self._cache.free(dead, request.tree.root)
        self._cache.keep(request.slot, request.cached_tokens())
        self._cache.collect(request.seq)
        if request.has_begun:
            self._out.append(Send(self._first, Plane.DATA, Close(request.id)))
        self._out += request.end()
        del self._active[request.id]

    def _stop(self) -> list[Effect]:
        drafts = [self.config.draft] if self.config.draft is not None else []
        stops: list[Effect] = [Send(actor, Plane.CONTROL, Stop()) for actor in (*self.config.stages, *drafts)]
        return [*stops, Quit()]

    # -- verifications --------------------------------------------------------------------------------------------

    def _answered(self, result: Result) -> None:
        run = self._runs.answered(result)
        if run.is_cancelled:
            return
        request = self._active[run.request]
        tokens = dict(zip(result.nodes, result.tokens, strict=True))
        accepted, dead, finish = self._verify(request, run, tokens)
        request.answered(run)
        self._send_cancel(self._runs.withdraw(dead))
        if accepted:
            self._out.append(Emit(request.id, tuple(accepted), finish, request.statistics))
        if finish:
            self._end(request)
        elif accepted:
            self._out += request.accepted(accepted)

    def _verify(
        self, request: Request, run: RunInFlight, tokens: dict[NodeId, Token]
    ) -> tuple[list[Token], list[Node], FinishReason | None]:
        """Walk the rows of a run: a decision counts where its row is the root; other rows must be dead or decided.

        Returns the tokens accepted, the nodes that died, and why the request ends, if it does.
        """
        accepted: list[Token] = []
        dead: list[Node] = []
        for node in run.nodes:
            if node is not request.tree.root:
                if node.state is NodeState.DISPATCHED:
                    raise ProtocolError(f"node {node.id} was decided before its parent")
                continue  # dead, or a level received what follows before its own decision came
            token = tokens.get(node.id)
            if token is None:
                raise ProtocolError(f"run {run.run_id} came back without living node {node.id}")
            died = request.accept(token)
            self._cache.free(died, request.tree.root)
            dead += died
            accepted.append(token)
            if finish := request.finish_after(token):
                return accepted, dead, finish
        return accepted, dead, None

    def _drafted(self, src: Actor, draft: Draft | EarlyDraft) -> None:
        """Take a draft's tokens, or an exit's of a run that is still in flight, and cancel what these take back."""
        if isinstance(draft, Draft):
            if (request := self._active.get(draft.request)) is not None:
                request.drafted(draft)
        elif (run := self._runs.living(draft.run_id)) is not None:
            request = self._active[run.request]
            for survivor, dead in request.drafted_early(src, run, draft):
                self._cache.free(dead, request.tree.root, survivor)
                self._send_cancel(self._runs.withdraw(dead))

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
            self._runs.rolled_back(request.id, event.pos)
        for token in event.tokens:
            dead += request.accept(token)
        self._cache.free(dead, request.tree.root)
        self._send_cancel(self._runs.withdraw(dead))
        self._out += request.accepted(event.tokens)

    def _correct_waiting(self, event: Corrected) -> None:
        for waiting in self._waiting:  # none has it where the program is ending
            if waiting.request == event.request:
                waiting.tokens = (*waiting.tokens[: event.pos], *event.tokens)
                waiting.limit = event.limit

    def _send_cancel(self, cancel: Cancel | None) -> None:
        """Send the stages a cancel, if there is one.

        Stages may ignore it: the operations that free the cells are in the next run either way (law 3).
        """
        if cancel is not None:
            self._out += [Send(stage, Plane.CONTROL, cancel) for stage in self._relays]

    # -- dispatching ----------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Fill the pipeline: requests take turns, each with what its strategy thinks best."""
        hungry = deque(self._active.values())
        while hungry and self._runs.has_room:
            request = hungry.popleft()
            if self._active.get(request.id) is request and self._dispatch_one(request):
                self._active[request.id] = self._active.pop(request.id)  # the longest waiting is first next time
                hungry.append(request)

    def _dispatch_one(self, request: Request) -> bool:
        if request.is_behind:
            if self._waits_for_prefix(request) or not self._room(request, request.num_next, request.num_next):
                return False
            chunk = request.next_chunk()
            self._send_run(request, chunk, [], [])
            if request.filled <= chunk[-1].pos:
                self._cache.truncate(request.seq, request.filled)
            return True
        if request.tree.root.state is NodeState.PENDING:
            if self._cache.should_collect:
                self._cache.collect(request.seq)
        elif self._cache.must_collect:
            return False
        request.draft()
        chosen = [node for node in request.strategy.choose(request) if node.pos + 1 < request.limit]
        if not chosen:
            return False
        room = self._room(request, len(chosen), least=request.tree.root.state is NodeState.PENDING)
        nodes, _, branches = self._cache.place(chosen[:room])
        if not nodes:
            return False
        self._send_run(request, [request.row(node) for node in nodes], nodes, branches)
        return True

    def _room(self, request: Request, num_rows: int, least: int) -> int:
        """Return for how many of a request's rows there are cells; it cannot do without `least` of them.

        For these the youngest request gives its own, at last this one. So the oldest one ends at some time.
        """
        while (room := self._cache.make_room(num_rows)) < least and len(self._active) > 1:
            youngest = max(self._active)
            self._preempt(self._active[youngest])
            if youngest == request.id:
                return 0
        return room

    def _waits_for_prefix(self, request: Request) -> bool:
        """Share what others have computed of a new prompt; tell whether so much of it is coming that waiting pays."""
        if request.has_begun:
            return False
        request.catch_up(self._cache.catch_up(request.slot))
        return self._cache.is_coming(request.slot, self.config.chunk)

    def _send_run(self, request: Request, rows: list[Row], nodes: list[Node], branches: Sequence[Branch]) -> None:
        """Dispatch rows: those of `nodes`, or of given tokens where there are none."""
        # Not before, or requests that come and go while nothing can be dispatched would pile up in front of the stages.
        if not request.has_begun:
            opened = opening(request.id, request.sampling, request.tokens, rows[0].pos)
            self._out.append(Send(self._first, Plane.DATA, opened))
        deciding = nodes or ([request.tree.root] if rows[-1].decide else [])
        last_pos = rows[-1].pos if nodes else Pos(request.filled - 1)
        run = self._runs.dispatch(request.id, request.statistics, deciding, last_pos, is_chunk=not nodes)
        request.dispatched(run)
        message = Run(run.run_id, tuple(rows), self._cache.take(), branches=tuple(branches))
        self._out.append(Send(self._first, Plane.DATA, message))
