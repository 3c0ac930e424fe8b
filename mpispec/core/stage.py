"""A stage: takes runs in order, computes one at a time, passes each on exactly once.

Life of a run on a stage:

| state     | next      | when                          | what leaves                                |
|-----------|-----------|-------------------------------|--------------------------------------------|
| QUEUED    | COMPUTING | its turn, not cancelled       | first stage: a credit                      |
| QUEUED    | COMPUTING | its turn, some rows cancelled | the same, later without them               |
| QUEUED    | FORWARDED | its turn, void or cancelled   | the run as void, with its cache operations |
| COMPUTING | ABORTING  | a cancel names it             | nothing                                    |
| COMPUTING | FORWARDED | computed                      | activations, or the result                 |
| ABORTING  | FORWARDED | computed or given up          | the run as void, with its cache operations |
"""

from __future__ import annotations

from collections import deque

from mpispec.core.config import FIRST_READING
from mpispec.core.effects import (
    AbortCompute,
    ApplyCacheOps,
    CloseSampler,
    Compute,
    Effect,
    OpenSampler,
    Quit,
    Send,
)
from mpispec.core.events import Computed, Event, Payload, ProtocolError, Received
from mpispec.core.ids import HEAD, Actor, NodeId, Plane, RequestId, RunId, relays
from mpispec.core.messages import Cancel, Close, Credit, EarlyDraft, Idle, Open, Result, Run, Stop


class StageCore:
    """The protocol of one stage; `actor` counts in layer order from its head's address, or from `readers`."""

    def __init__(
        self,
        actor: Actor,
        num_stages: int,
        queue_limit: int,
        head: Actor = HEAD,
        has_exit: bool = False,
        readers: Actor | None = None,
    ) -> None:
        """With `readers` it is a stage for prompts; see `HeadConfig`."""
        before, newest = (head, RunId(-1)) if readers is None else (readers, RunId(FIRST_READING - 1))
        self.actor = actor
        self.is_first = actor == before + 1
        self.is_last = actor == before + num_stages
        self._head = head
        self._next = head if self.is_last else Actor(actor + 1)
        self._has_exit = has_exit
        self._queue_limit = queue_limit
        self._relays = relays(actor, before, num_stages)
        self._queue: deque[tuple[Open | Close | Run, Payload]] = deque()
        self._busy: Run | None = None
        self._aborting = False
        self._cancelled: set[RunId] = set()
        """Cancels whose runs are queued or still to come: a cancel may overtake its run."""
        self._dead_rows: dict[RunId, set[tuple[RequestId, NodeId]]] = {}
        """Cancelled rows of runs that go on without them; kept as long as cancels are."""
        self._newest = newest
        self._idle_after = newest
        """The newest run when the last `Idle` was sent."""
        self._stopping = False

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event; return what to do about it."""
        del now  # a stage has no timers
        match event:
            case Received(message=Run() | Open() | Close() as message, payload=payload):
                self._enqueue(message, payload)
                return self._work()
            case Received(message=Cancel() as cancel):
                return [Send(stage, Plane.CONTROL, cancel) for stage in self._relays] + self._cancel(cancel)
            case Received(message=Stop()):
                return self._stop()
            case Computed():
                return self._computed(event)
            case _:
                raise ProtocolError(f"a stage cannot handle {event}")

    def check(self) -> None:
        """Assert the invariants; tests call it after every event."""
        queued = {item.run_id for item, _ in self._queue if isinstance(item, Run)}
        remembered = self._cancelled | set(self._dead_rows)
        assert all(run in queued or run > self._newest for run in remembered), "tombstone of a run that is gone"
        assert not (self._queue and self._busy is None), "a queue stands although nothing computes"
        assert len(self._queue) <= self._queue_limit, "queue above its bound (law 7)"

    @property
    def is_idle(self) -> bool:
        """Nothing queued, nothing computing, no cancel remembered."""
        return not (self._queue or self._busy or self._cancelled or self._dead_rows)

    def _enqueue(self, message: Open | Close | Run, payload: Payload) -> None:
        if isinstance(message, Run):
            if message.run_id != self._newest + 1:
                raise ProtocolError(f"run {message.run_id} arrived after run {self._newest}")
            self._newest = message.run_id
        if len(self._queue) >= self._queue_limit:
            raise ProtocolError(f"more than {self._queue_limit} messages wait in front of a stage")
        self._queue.append((message, payload))

    def _cancel(self, cancel: Cancel) -> list[Effect]:
        queued = {item.run_id for item, _ in self._queue if isinstance(item, Run)}
        self._cancelled.update(run for run in cancel.run_ids if run in queued or run > self._newest)
        for run, request, node in zip(cancel.row_runs, cancel.row_requests, cancel.row_nodes, strict=True):
            if run in queued or run > self._newest:
                self._dead_rows.setdefault(run, set()).add((request, node))
        if self._busy is None or self._busy.run_id not in cancel.run_ids or self._aborting:
            return []
        self._aborting = True
        return [AbortCompute(self._busy.run_id)]

    def _computed(self, event: Computed) -> list[Effect]:
        run = self._busy
        if run is None or run.run_id != event.run_id:
            raise ProtocolError(f"run {event.run_id} was not computing")
        self._busy = None
        dropped = event.aborted or self._aborting
        self._aborting = False
        effects = [self._void(run)] if dropped else [self._answer(run, event), *self._draft_early(run, event)]
        if self._stopping:
            return [*effects, Quit()]
        return effects + self._work()

    def _work(self) -> list[Effect]:
        """Take from the queue until something computes or nothing is left."""
        effects: list[Effect] = []
        while self._busy is None and self._queue:
            item, payload = self._queue.popleft()
            if not isinstance(item, Run):
                effects += self._pass_on(item)
                continue
            if self.is_first:
                effects.append(Send(self._head, Plane.CONTROL, Credit(item.run_id)))
            run, payload = self._living(item, payload)
            if run.rows:
                self._busy = run
                effects.append(Compute(run, payload))
                continue
            if run.cache_ops:
                effects.append(ApplyCacheOps(run.cache_ops))
            effects.append(self._void(run))
        if self.is_first and self._busy is None and self._idle_after != self._newest:
            self._idle_after = self._newest
            effects.append(Send(self._head, Plane.CONTROL, Idle(self._newest)))
        return effects

    def _living(self, run: Run, payload: Payload) -> tuple[Run, Payload]:
        """Return what is left of a run: without its cancelled rows, with all its cache operations (law 3)."""
        dead = self._dead_rows.pop(run.run_id, set())
        if run.void or run.run_id in self._cancelled:
            self._cancelled.discard(run.run_id)
            return Run(run.run_id, (), run.cache_ops, void=True), None
        living = [index for index, row in enumerate(run.rows) if (row.request, row.node) not in dead]
        if len(living) == len(run.rows):
            return run, payload
        if payload is not None:
            size = len(payload) // len(run.rows)
            payload = b"".join(payload[index * size : (index + 1) * size] for index in living)
        rows = tuple(run.rows[index] for index in living)
        return Run(run.run_id, rows, run.cache_ops, branches=run.branches), payload

    def _pass_on(self, message: Open | Close) -> list[Effect]:
        effects: list[Effect] = [] if self.is_last else [Send(self._next, Plane.DATA, message)]
        if self.is_last or self._has_exit:
            effects.append(OpenSampler(message) if isinstance(message, Open) else CloseSampler(message.request))
        return effects

    def _answer(self, run: Run, event: Computed) -> Effect:
        if self.is_last:
            requests, nodes = _deciding(run)
            return Send(self._head, Plane.DATA, Result(run.run_id, requests, nodes, event.tokens, scores=event.scores))
        return Send(self._next, Plane.DATA, run, event.payload)

    def _draft_early(self, run: Run, event: Computed) -> list[Effect]:
        """Send the head what an exit drafts; the run has been passed on before."""
        if not event.draft_tokens:
            return []
        requests, nodes = _deciding(run)
        tokens, probs = zip(*event.draft_tokens, strict=True)
        return [Send(self._head, Plane.DRAFT, EarlyDraft(run.run_id, requests, nodes, tokens, probs))]

    def _void(self, run: Run) -> Effect:
        if self.is_last:
            return Send(self._head, Plane.DATA, Result(run.run_id, (), (), (), void=True))
        return Send(self._next, Plane.DATA, Run(run.run_id, (), run.cache_ops, void=True))

    def _stop(self) -> list[Effect]:
        self._stopping = True
        if self._busy is None:
            return [Quit()]
        if self._aborting:
            return []
        self._aborting = True
        return [AbortCompute(self._busy.run_id)]


def _deciding(run: Run) -> tuple[tuple[RequestId, ...], tuple[NodeId, ...]]:
    """Return the requests and the nodes of a run's deciding rows."""
    deciding = [row for row in run.rows if row.decide]
    return tuple([row.request for row in deciding]), tuple([row.node for row in deciding])
