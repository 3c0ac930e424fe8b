"""The draft: grows a tree of draft tokens layer by layer, runs ahead to a limit, follows what is accepted.

One core for all drafters on a rank of their own: with width 1 it streams a chain (PipeInfer's asynchronous
speculation), with more it expands the whole frontier in one pass and keeps the best by the probability of the path
(the layers of SpecPipe, arXiv 2504.04104).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from mpispec.core.cache_operations import CacheOperations
from mpispec.core.draft_stream import DraftStream
from mpispec.core.effects import AbortDraft, CloseSampler, ComputeDraft, Effect, OpenSampler, Quit, Send
from mpispec.core.events import Drafted, Event, ProtocolError, Received
from mpispec.core.ids import HEAD, Actor, Plane, RequestId, RunId
from mpispec.core.messages import ROOT, Draft, Follow, Prime, Retire, Row, Run, Stop, given_rows, opening
from mpispec.core.tree import Node, NodeState

_FEW = 2
"""Requests that are each drafted for as wide as they ask."""
TOGETHER = 16
"""Rows of a run that several requests share; one alone may have more."""


class _Part(NamedTuple):
    """What a run carries of one stream."""

    stream: DraftStream
    nodes: list[Node]
    """Those whose successors it finds; none where it only computes accepted text."""
    start: int
    """First position whose cell the run may leave unwritten."""
    branch: int
    """Most successors for one node."""


class DraftCore:
    """The protocol of the draft rank. One run computes at a time; it serves as many requests as it has room for."""

    def __init__(
        self,
        chunk: int,
        max_active: int = 1,
        sequences: int = 64,
        above: Actor = HEAD,
        cells: int | None = None,
    ) -> None:
        """Draft for `max_active` requests at once in a cache with so many `cells`.

        They must hold any one request with all that is drafted for it, or a strategy may wait for the rest in vain.
        """
        self._chunk = chunk
        self._above = above
        self._cache = CacheOperations(sequences, max_active, shares=True, most_cells=cells)
        self._streams: dict[RequestId, DraftStream] = {}
        self._turns: deque[RequestId] = deque()
        self._next_run = RunId(0)
        self._busy: dict[RequestId, _Part] = {}
        """What the run under way carries; nothing where none is."""
        self._stopping = False

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event; return what to do about it."""
        del now  # the draft has no timers
        match event:
            case Received(message=Prime() as prime):
                return self._prime(prime) + self._work()
            case Received(message=Follow() as follow):
                return self._follow(follow) + self._work()
            case Received(message=Retire(request)):
                return self._retire(request) + self._work()  # sequence ids are free again for other requests
            case Received(message=Stop()):
                self._stopping = True
                return [AbortDraft()] if self._busy else [Quit()]
            case Drafted():
                return self._drafted(event)
            case _:
                raise ProtocolError(f"a draft cannot handle {event}")

    def check(self) -> None:
        """Assert the invariants; tests call it after every event."""
        for stream in self._streams.values():
            may_idle = self._stopping or not self._has_work(stream)
            assert self._busy or may_idle, "the draft idles although it may draft"
        self._cache.check({node.seq for stream in self._streams.values() for node in stream.root.subtree()})

    @property
    def is_idle(self) -> bool:
        """No request is open and nothing computes."""
        return not (self._streams or self._busy)

    def _prime(self, prime: Prime) -> list[Effect]:
        adopted = self._cache.adopt(prime.tokens, at_once=True)
        assert adopted is not None, "the head begins no more requests than it said"
        slot, cached = adopted
        self._streams[prime.request] = DraftStream(prime, slot, cached)
        self._turns.append(prime.request)
        self._narrow()
        return []

    def _narrow(self) -> None:
        """Draft for all as wide as the narrowest is to be: streams share steps, so that a wide one costs all of them.

        A request that began alone may have asked for a tree where those that came later know better. Of two, the tree
        of one is worth its steps (docs/strategies.md, under load).
        """
        narrowest = min((stream.prime.width for stream in self._streams.values()), default=1)
        for stream in self._streams.values():
            stream.width = narrowest if len(self._streams) > _FEW else stream.prime.width

    def _follow(self, follow: Follow) -> list[Effect]:
        stream = self._stream(follow.request)
        stream.limit = follow.limit
        dead: list[Node] = []
        if follow.epoch != stream.epoch:
            stream.epoch = follow.epoch
            dead = stream.roll_back(follow.pos, self._computed(stream, len(stream.tokens)))
            self._cache.roll_back(stream.slot, follow.pos)
            self._cache.truncate(stream.seq, stream.filled)
        dead += stream.follow(follow.pos, follow.tokens)
        self._cache.free(dead, stream.root)
        effects = self._announce(stream, stream.refill())
        return effects + self._abort_if_dead()

    def _retire(self, request: RequestId) -> list[Effect]:
        stream = self._stream(request)
        del self._streams[request]
        self._turns.remove(request)
        self._narrow()
        self._cache.free(stream.tree.prune_children(), stream.root)
        computed = self._computed(stream, min(stream.filled, stream.root.pos))
        self._cache.keep(stream.slot, tuple(stream.tokens[:computed]))
        stream.root.state = NodeState.DEAD
        closed: list[Effect] = [CloseSampler(request)] if stream.is_open else []
        return closed + self._abort_if_dead()

    def _computed(self, stream: DraftStream, most: int) -> int:
        """Return how many of the first `most` positions surely have cells: a run under way may be given up."""
        part = self._busy.get(stream.request)
        return min(most, part.start) if part is not None and part.stream is stream else most

    def _drafted(self, event: Drafted) -> list[Effect]:
        if not self._busy or event.run_id != self._next_run - 1:
            raise ProtocolError(f"no draft run {event.run_id} was under way")
        parts, self._busy = self._busy, {}
        if self._stopping:
            return [Quit()]
        effects: list[Effect] = []
        found = iter(event.draft_tokens)
        for request, (stream, nodes, _, branch) in parts.items():
            stream.answered_to = stream.filled
            if not event.aborted:
                successors = tuple(next(found)[:branch] for _ in nodes)
                if self._streams.get(request) is stream:
                    effects += self._announce(stream, stream.grow(nodes, successors))
        return effects + self._work()

    # -- drafting -------------------------------------------------------------------------------------------------

    def _work(self) -> list[Effect]:
        """Begin a run for the stream whose turn it is; others join, those with the likeliest draft tokens first."""
        if self._busy or self._stopping:
            return []
        for _ in range(len(self._turns)):
            stream = self._streams[self._turns[0]]
            self._turns.rotate(-1)
            if self._has_work(stream):
                return self._compute(stream)
        return []

    def _begin(self, stream: DraftStream) -> list[Effect]:
        """Share what others have computed of a new text, and open its sampler."""
        if stream.has_begun:
            return []
        stream.has_begun = stream.is_open = True
        stream.filled = stream.answered_to = self._cache.catch_up(stream.slot)
        return [OpenSampler(opening(stream.request, stream.prime.sampling, stream.tokens, stream.filled))]

    def _has_work(self, stream: DraftStream) -> bool:
        """Tell whether it may draft. Accepted text waits until then and is computed in one go.

        A draft with lead 0 may share its core with a stage (ADR 0028).
        """
        has_room = self._cache.room(1) > 0 or any(other.filled for other in self._others(stream))
        return has_room and bool(stream.frontier(self._cache.num_free))

    def _others(self, stream: DraftStream) -> list[DraftStream]:
        return [self._streams[request] for request in reversed(self._turns) if request != stream.request]

    def _make_room(self, stream: DraftStream, num_rows: int) -> int:
        """Return for how many rows of a stream there are cells; others give theirs and compute their text again later.

        Then it is this one's turn until it has no work, or streams could take cells from each other for ever.
        """
        for other in self._others(stream):
            if self._cache.room(num_rows) == num_rows:
                break
            self._cache.free(other.empty(), other.root)
            self._cache.empty(other.slot, tuple(other.tokens))
            self._turns.remove(stream.request)
            self._turns.appendleft(stream.request)
        return self._cache.make_room(num_rows)

    def _compute(self, first: DraftStream) -> list[Effect]:
        effects = self._begin(first)
        rows = self._rows(first, self._chunk, self._make_room)
        waiting = [] if len(rows) >= TOGETHER else self._others(first)
        waiting.sort(key=lambda stream: -stream.worth(self._cache.num_free))
        for stream in waiting:
            left = TOGETHER - len(rows)
            if left <= 0:
                break
            if self._has_work(stream):
                effects += self._begin(stream)
                rows += self._rows(stream, left, lambda _, num_rows: self._cache.make_room(num_rows))
        run = Run(self._next_run, tuple(rows), self._cache.take())
        self._next_run = RunId(self._next_run + 1)
        return [*effects, ComputeDraft(run, max(part.branch for part in self._busy.values()))]

    def _rows(self, stream: DraftStream, most: int, room: Callable[[DraftStream, int], int]) -> list[Row]:
        """Return the next rows of a stream: missing ones of the accepted text, the root with its last, or a layer.

        `room` says for how many of them there are cells. No stream gives its own for those of a stream that joins.
        """
        rows: list[Row] = []
        nodes: list[Node] = []
        start = len(stream.tokens)
        if stream.root.state is NodeState.PENDING:
            start, stop = stream.filled, min(stream.filled + most, len(stream.tokens))
            stop = start + room(stream, stop - start)
            rows = given_rows(stream.request, stream.ids, stream.tokens, range(start, stop), stream.seq)
            stream.filled = stop
            if stop == len(stream.tokens):
                nodes = [stream.root]
        else:
            frontier = stream.frontier(self._cache.num_free)[:most]
            frontier = frontier[: room(stream, len(frontier))]
            nodes = self._cache.place(frontier).nodes  # a layer: no branches within a run
            rows = [self._row(stream, node) for node in nodes]
        for node in nodes:
            stream.tree.dispatch(node, self._next_run)
        if rows:
            self._busy[stream.request] = _Part(stream, nodes, start, max(2, stream.width) if stream.width > 1 else 1)
        return rows

    def _row(self, stream: DraftStream, node: Node) -> Row:
        assert node.seq is not None
        return Row(stream.request, node.id, node.parent_id, node.token, node.pos, node.seq, True)

    def _abort_if_dead(self) -> list[Effect]:
        """Give up a run whose nodes have all died; not one that computes accepted text."""
        parts = self._busy.values()
        are_dead = all(part.nodes and all(node.state is NodeState.DEAD for node in part.nodes) for part in parts)
        return [AbortDraft()] if parts and are_dead else []

    def _announce(self, stream: DraftStream, nodes: list[Node]) -> list[Effect]:
        """Send new nodes to the head; their ids follow one another because they were made together."""
        if not nodes:
            return []
        parents = tuple(ROOT if node.parent is stream.root else node.parent_id for node in nodes)
        draft = Draft(
            stream.request,
            stream.root.pos,
            nodes[0].id,
            parents,
            tuple(node.token for node in nodes),
            tuple(node.prob for node in nodes),
            stream.epoch,
        )
        return [Send(self._above, Plane.DRAFT, draft)]

    def _stream(self, request: RequestId) -> DraftStream:
        stream = self._streams.get(request)
        if stream is None:
            raise ProtocolError(f"request {request} is not open at the draft")
        return stream
