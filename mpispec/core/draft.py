"""The draft: grows a tree of draft tokens layer by layer, runs ahead to a limit, follows what is accepted.

One core for all drafters on a rank of their own: with width 1 it streams a chain (PipeInfer's asynchronous
speculation), with more it expands the whole frontier in one pass and keeps the best by the probability of the path
(the layers of SpecPipe, arXiv 2504.04104).
"""

from __future__ import annotations

from collections import deque

from mpispec.core.cache_operations import CacheOperations
from mpispec.core.cells import Slot
from mpispec.core.effects import AbortDraft, CloseSampler, ComputeDraft, Effect, OpenSampler, Quit, Send
from mpispec.core.events import Drafted, DraftToken, Event, ProtocolError, Received
from mpispec.core.ids import HEAD, Actor, NodeId, Plane, Pos, RequestId, RunId, SeqId, Token
from mpispec.core.messages import ROOT, Draft, Follow, Prime, Retire, Row, Run, Stop, given_rows, opening
from mpispec.core.sequences import inherits
from mpispec.core.tree import Node, NodeState, TokenTree

_SPARES = 16
"""Spare draft tokens kept for each of a layer's places. Beyond that, a node without any other keeps one: it has been
computed and is not expanded again, should it become the root."""


class _Stream:
    """One request as the draft sees it."""

    def __init__(self, prime: Prime, slot: Slot, cached: int) -> None:
        self.prime = prime
        self.request = prime.request
        self.has_begun = False
        """Whether anything has been computed for it since it had no cells."""
        self.is_open = False
        """Whether it has a sampler."""
        self.slot = slot
        slot.holder = self
        self.width = prime.width
        self.floor = prime.floor
        self.limit = prime.limit
        self.epoch = prime.epoch
        self.tokens = list(prime.tokens)
        """The accepted tokens; the last of them is the root."""
        self.filled = cached
        """How many of them have cells, or are being computed."""
        self.answered_to = cached
        """How many of them had cells when nothing was being computed."""
        last = len(self.tokens) - 1
        self.ids = [NodeId(pos) for pos in range(len(self.tokens))]
        """Nodes of the accepted tokens."""
        self.tree = TokenTree(NodeId(last), self.tokens[-1], Pos(last))
        self.tree.root.seq = slot.seq
        self.spares: list[tuple[float, Node, DraftToken]] = []
        """Draft tokens that were not among the best of their layer, with the probability of their paths."""

    @property
    def root(self) -> Node:
        return self.tree.root

    @property
    def seq(self) -> SeqId:
        seq = self.tree.root.seq
        assert seq is not None
        return seq

    @property
    def num_speculative(self) -> int:
        """Draft tokens that have cells, or are being computed."""
        return self.tree.num_speculative

    def follow(self, pos: Pos, tokens: tuple[Token, ...]) -> list[Node]:
        """Accept tokens; return the nodes that died."""
        if pos != len(self.tokens):
            raise ProtocolError(f"tokens from position {pos} on were accepted where {len(self.tokens)} was due")
        dead: list[Node] = []
        for token in tokens:
            seq = self.seq
            dead += self.tree.advance(token)
            if self.root.seq is None:
                self.root.seq = seq
            self.tokens.append(token)
            self.ids.append(self.root.id)
            if self.root.state is NodeState.DISPATCHED:
                self.filled = len(self.tokens)
        return dead

    def roll_back(self, pos: Pos, computed: int) -> list[Node]:
        """Take back the accepted tokens from `pos` on; return the nodes that died.

        `computed` is how many tokens have cells whatever becomes of the run under way.
        """
        if not 0 < pos <= len(self.tokens):
            raise ProtocolError(f"tokens from position {pos} on were taken back of {len(self.tokens)}")
        dead = self.tree.roll_back(self.ids[pos - 1], self.tokens[pos - 1], Pos(pos - 1))
        del self.tokens[pos:], self.ids[pos:]
        self.filled = min(self.filled, pos, computed)
        self.answered_to = min(self.answered_to, self.filled)
        self.spares = []
        return dead

    def empty(self) -> list[Node]:
        """Give up all draft tokens and cells; return the nodes that died."""
        dead = self.tree.prune_children()
        root = self.root
        self.tree.roll_back(root.id, root.token, root.pos)
        self.filled = self.answered_to = 0
        self.has_begun = False
        self.spares = []
        return dead

    def frontier(self, num_free: int) -> list[Node]:
        """Return the nodes to expand next: the likeliest and the best of its layer; the root alone.

        Where no sequence id is free (`num_free`), only those that need none.
        """
        if self.root.pos + 1 >= self.limit:
            return []
        if self.root.state is NodeState.PENDING:
            return [self.root]
        waiting = [node for node in self.tree.ready() if node.pos + 1 < self.limit and (num_free > 0 or inherits(node))]
        if not waiting:
            return []
        waiting.sort(key=lambda node: (-node.path_prob, node.id))
        layer = [node for node in waiting if node.pos == waiting[0].pos][: self.width]
        return [node for node in layer if node.path_prob >= self.floor * layer[0].path_prob]

    def grow(self, nodes: list[Node], draft_tokens: tuple[tuple[DraftToken, ...], ...]) -> list[Node]:
        """Add the best draft tokens below computed nodes, at most `width` for a position; return the new nodes."""
        candidates = [
            (node.path_prob * draft_token[1], node, draft_token)
            for node, found in zip(nodes, draft_tokens, strict=True)
            if node.state is NodeState.DISPATCHED
            for draft_token in found
        ]
        return self._take(candidates + self._living_spares())

    def refill(self) -> list[Node]:
        """Add spare draft tokens where rejections have thinned a layer; return the new nodes."""
        return self._take(self._living_spares())

    def _living_spares(self) -> list[tuple[float, Node, DraftToken]]:
        return [spare for spare in self.spares if spare[1].state is NodeState.DISPATCHED]

    def _take(self, candidates: list[tuple[float, Node, DraftToken]]) -> list[Node]:
        layers: dict[int, int] = {}
        for node in self.root.subtree():
            layers[node.pos] = layers.get(node.pos, 0) + 1
        added: list[Node] = []
        kept: set[NodeId] = set()
        self.spares = []
        # Paths compare by today's path probability: it may have been rescaled when the root advanced.
        ranked = sorted(
            ((parent.path_prob * draft_token[1], index) for index, (_, parent, draft_token) in enumerate(candidates)),
            key=lambda pair: (-pair[0], pair[1]),
        )
        for path_prob, index in ranked:
            _, parent, draft_token = candidates[index]
            pos = parent.pos + 1
            if layers.get(pos, 0) < self.width:
                layers[pos] = layers.get(pos, 0) + 1
                added.append(self.tree.add(parent, draft_token[0], draft_token[1]))
            elif len(self.spares) < _SPARES * self.width or not (parent.children or parent.id in kept):
                kept.add(parent.id)
                self.spares.append((path_prob, parent, draft_token))
        return added


class DraftCore:
    """The protocol of the draft rank. Requests take turns; one run computes at a time."""

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
        self._streams: dict[RequestId, _Stream] = {}
        self._turns: deque[RequestId] = deque()
        self._next_run = RunId(0)
        self._busy: tuple[_Stream, list[Node], RunId] | None = None
        self._busy_from = 0
        """First position whose cell the run under way may leave unwritten."""
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
            assert self._busy is not None or may_idle, "the draft idles although it may draft"
        self._cache.check({node.seq for stream in self._streams.values() for node in stream.root.subtree()})

    @property
    def is_idle(self) -> bool:
        """No request is open and nothing computes."""
        return not self._streams and self._busy is None

    def _prime(self, prime: Prime) -> list[Effect]:
        adopted = self._cache.adopt(prime.tokens, at_once=True)
        assert adopted is not None, "the head begins no more requests than it said"
        slot, cached = adopted
        self._streams[prime.request] = _Stream(prime, slot, cached)
        self._turns.append(prime.request)
        return []

    def _follow(self, follow: Follow) -> list[Effect]:
        stream = self._stream(follow.request)
        stream.limit = follow.limit
        dead: list[Node] = []
        if follow.epoch != stream.epoch:
            stream.epoch = follow.epoch
            computed = self._busy_from if self._busy is not None and self._busy[0] is stream else len(stream.tokens)
            dead = stream.roll_back(follow.pos, computed)
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
        self._cache.free(stream.tree.prune_children(), stream.root)
        # Cells of a run under way are not counted: it may be given up.
        computed = min(stream.filled, stream.root.pos)
        if self._busy is not None and self._busy[0] is stream:
            computed = min(computed, self._busy_from)
        self._cache.keep(stream.slot, tuple(stream.tokens[:computed]))
        stream.root.state = NodeState.DEAD
        closed: list[Effect] = [CloseSampler(request)] if stream.is_open else []
        return closed + self._abort_if_dead()

    def _drafted(self, event: Drafted) -> list[Effect]:
        if self._busy is None or self._busy[2] != event.run_id:
            raise ProtocolError(f"no draft run {event.run_id} was under way")
        stream, nodes, _ = self._busy
        self._busy = None
        if self._stopping:
            return [Quit()]
        effects: list[Effect] = []
        stream.answered_to = stream.filled
        if not event.aborted and self._streams.get(stream.request) is stream:
            effects = self._announce(stream, stream.grow(nodes, event.draft_tokens))
        return effects + self._work()

    # -- drafting -------------------------------------------------------------------------------------------------

    def _work(self) -> list[Effect]:
        if self._busy is not None or self._stopping:
            return []
        for _ in range(len(self._turns)):
            stream = self._streams[self._turns[0]]
            self._turns.rotate(-1)
            if self._has_work(stream):
                return [*self._begin(stream), self._compute(stream)]
        return []

    def _begin(self, stream: _Stream) -> list[Effect]:
        """Share what others have computed of a new text, and open its sampler."""
        if stream.has_begun:
            return []
        stream.has_begun = stream.is_open = True
        stream.filled = stream.answered_to = self._cache.catch_up(stream.slot)
        return [OpenSampler(opening(stream.request, stream.prime.sampling, stream.tokens, stream.filled))]

    def _has_work(self, stream: _Stream) -> bool:
        """Tell whether it may draft. Accepted text waits until then and is computed in one go.

        A draft with lead 0 may share its core with a stage (ADR 0028).
        """
        has_room = self._cache.room(1) > 0 or any(other.filled for other in self._others(stream))
        return has_room and bool(stream.frontier(self._cache.num_free))

    def _others(self, stream: _Stream) -> list[_Stream]:
        return [self._streams[request] for request in reversed(self._turns) if request != stream.request]

    def _make_room(self, stream: _Stream, num_rows: int) -> int:
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

    def _compute(self, stream: _Stream) -> Effect:
        """Compute what is missing of the accepted text, the root with its last chunk, else the next layer."""
        rows: list[Row] = []
        nodes: list[Node] = []
        if stream.root.state is NodeState.PENDING:
            self._busy_from = stream.filled
            start, stop = stream.filled, min(stream.filled + self._chunk, len(stream.tokens))
            stop = start + self._make_room(stream, stop - start)
            rows = given_rows(stream.request, stream.ids, stream.tokens, range(start, stop), stream.seq)
            stream.filled = stop
            if stop == len(stream.tokens):
                nodes = [stream.root]
        else:
            self._busy_from = len(stream.tokens)
            frontier = stream.frontier(self._cache.num_free)
            frontier = frontier[: self._make_room(stream, len(frontier))]
            nodes = self._cache.place(frontier).nodes  # a layer: no branches within a run
            rows = [self._row(stream, node) for node in nodes]
        for node in nodes:
            stream.tree.dispatch(node, self._next_run)
        run = Run(self._next_run, tuple(rows), self._cache.take())
        self._next_run = RunId(self._next_run + 1)
        self._busy = (stream, nodes, run.run_id)
        return ComputeDraft(run, max(2, stream.width) if stream.width > 1 else 1)

    def _row(self, stream: _Stream, node: Node) -> Row:
        assert node.seq is not None
        return Row(stream.request, node.id, node.parent_id, node.token, node.pos, node.seq, True)

    def _abort_if_dead(self) -> list[Effect]:
        if self._busy is None or not self._busy[1]:
            return []
        return [AbortDraft()] if all(node.state is NodeState.DEAD for node in self._busy[1]) else []

    def _announce(self, stream: _Stream, nodes: list[Node]) -> list[Effect]:
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

    def _stream(self, request: RequestId) -> _Stream:
        stream = self._streams.get(request)
        if stream is None:
            raise ProtocolError(f"request {request} is not open at the draft")
        return stream
