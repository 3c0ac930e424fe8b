"""The draft rank: streams guesses, runs ahead to a limit, rewinds when told (PipeInfer's asynchronous speculation)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from mpispec.core.effects import AbortDraft, ComputeDraft, Effect, Quit, Send
from mpispec.core.errors import ProtocolError
from mpispec.core.events import Drafted, Event, Received
from mpispec.core.ids import HEAD, Epoch, Plane, Pos, RequestId, SeqId, Token
from mpispec.core.messages import Advance, Draft, Prime, Retire, Rewind, Sampling, Stop


@dataclass(slots=True)
class _Stream:
    """One request as the draft sees it."""

    request: RequestId
    slot: SeqId
    tokens: list[Token]
    """Accepted tokens, then our guesses."""
    computed: int
    """How many of them have a cell in the draft's cache."""
    limit: Pos
    sampling: Sampling
    epoch: Epoch = Epoch(0)

    @property
    def has_work(self) -> bool:
        return len(self.tokens) < self.limit and self.computed < len(self.tokens)


@dataclass(slots=True)
class _Step:
    """The compute under way: positions start <= p < stop are being fed."""

    stream: _Stream
    start: int
    stop: int
    valid: int
    """Fed positions below this still hold the stream's tokens; lowered by rewinds."""


class DraftCore:
    """The protocol of the draft rank. Requests take turns; each keeps its own cached sequence."""

    def __init__(self, chunk: int) -> None:
        self._chunk = chunk
        self._streams: dict[RequestId, _Stream] = {}
        self._turns: deque[RequestId] = deque()
        self._cached: dict[SeqId, list[Token]] = {}
        """Tokens that have cells, for slots whose request has ended."""
        self._step: _Step | None = None
        self._stopping = False

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event; return what to do about it."""
        del now  # the draft has no timers
        match event:
            case Received(message=Prime() as prime):
                self._prime(prime)
                return self._work()
            case Received(message=Rewind() as rewind):
                return self._rewind(rewind) + self._work()
            case Received(message=Advance(request, limit)):
                if (stream := self._streams.get(request)) is not None:
                    stream.limit = limit
                return self._work()
            case Received(message=Retire(request)):
                return self._retire(request)
            case Received(message=Stop()):
                self._stopping = True
                return [AbortDraft()] if self._step else [Quit()]
            case Drafted():
                return self._drafted(event)
            case _:
                raise ProtocolError(f"a draft cannot handle {event}")

    def check(self) -> None:
        """Assert the invariants; tests call it after every event."""
        for stream in self._streams.values():
            assert 0 <= stream.computed <= len(stream.tokens)
            may_idle = self._stopping or not stream.has_work
            assert self._step is not None or may_idle, "the draft idles although it may guess"

    @property
    def is_idle(self) -> bool:
        """No request is open and nothing computes."""
        return not self._streams and self._step is None

    def cached(self) -> dict[SeqId, list[Token]]:
        """Return, for each slot, the tokens that have cells; a step under way writes behind them only."""
        streams = {stream.slot: stream.tokens[: stream.computed] for stream in self._streams.values()}
        return {**self._cached, **streams}

    def _prime(self, prime: Prime) -> None:
        cached = self._cached.pop(prime.slot, [])
        common = 0
        for ours, theirs in zip(cached, prime.tokens[:-1], strict=False):
            if ours != theirs:
                break
            common += 1
        stream = _Stream(prime.request, prime.slot, list(prime.tokens), common, prime.limit, prime.sampling)
        self._streams[prime.request] = stream
        self._turns.append(prime.request)

    def _rewind(self, rewind: Rewind) -> list[Effect]:
        stream = self._streams.get(rewind.request)
        if stream is None:
            raise ProtocolError(f"rewind of request {rewind.request}, which is not open")
        if rewind.pos > len(stream.tokens):
            raise ProtocolError(f"rewind to position {rewind.pos} of {len(stream.tokens)}")
        kept = int(rewind.pos)
        for ours, theirs in zip(stream.tokens[rewind.pos :], rewind.tokens, strict=False):
            if ours != theirs:
                break
            kept += 1
        stream.tokens[rewind.pos :] = rewind.tokens
        stream.epoch = rewind.epoch
        stream.limit = rewind.limit
        # The last token is fed again even if it has a cell: its logits are what the next guess is made of.
        stream.computed = min(stream.computed, kept, len(stream.tokens) - 1)
        step = self._step
        if step is None or step.stream is not stream:
            return []
        step.valid = min(step.valid, kept)
        return [AbortDraft()] if kept < step.stop else []

    def _retire(self, request: RequestId) -> list[Effect]:
        stream = self._streams.pop(request, None)
        if stream is None:
            raise ProtocolError(f"request {request} retired twice")
        self._turns.remove(request)
        # A step under way writes behind `computed` only, so these cells outlive it whatever becomes of it.
        self._cached[stream.slot] = stream.tokens[: stream.computed]
        if self._step is not None and self._step.stream is stream:
            return [AbortDraft()]
        return []

    def _drafted(self, event: Drafted) -> list[Effect]:
        step = self._step
        if step is None or step.stream.request != event.request:
            raise ProtocolError(f"no draft step of request {event.request} was under way")
        self._step = None
        if self._stopping:
            return [Quit()]
        stream = step.stream
        if self._streams.get(stream.request) is not stream:
            return self._work()
        is_current = step.valid >= step.stop and step.stop == len(stream.tokens)
        if event.token is None or not is_current:
            reached = step.start if event.aborted else step.stop
            stream.computed = min(reached, step.valid, len(stream.tokens) - 1)
            return self._work()
        stream.computed = step.stop
        stream.tokens.append(event.token)
        draft = Draft(stream.request, stream.epoch, Pos(step.stop), (event.token,), (event.prob,))
        return [Send(HEAD, Plane.DRAFT, draft), *self._work()]

    def _work(self) -> list[Effect]:
        if self._step is not None or self._stopping:
            return []
        for _ in range(len(self._turns)):
            stream = self._streams[self._turns[0]]
            self._turns.rotate(-1)
            if stream.has_work:
                return [self._feed(stream)]
        return []

    def _feed(self, stream: _Stream) -> Effect:
        start = stream.computed
        stop = min(start + self._chunk, len(stream.tokens))
        self._step = _Step(stream, start, stop, stop)
        tokens = tuple(stream.tokens[start:stop])
        decide = stop == len(stream.tokens)
        return ComputeDraft(stream.request, stream.slot, start, tokens, decide, stream.sampling)
