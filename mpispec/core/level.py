"""A level of a cascade: upwards a draft, downwards a head with stages and a drafter of its own.

PipeSpec (arXiv 2505.01572): each model verifies the one below and feeds the one above, none waits for another. What a
level accepts is only a draft token to the level above. A correction from there makes it roll back. The `Follow` that
its own head then sends down rolls back the one below: the rollback cascades a pair at a time. What is below a head may
be a level again, so a cascade of any height is made of these two ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mpispec.core.calibration import Calibration
from mpispec.core.effects import Effect, Emit, Send
from mpispec.core.events import Corrected, Event, ProtocolError, Received, StopRequested, Submitted, Withdrawn
from mpispec.core.head import HeadCore
from mpispec.core.ids import Actor, Plane, Pos, RequestId, Token
from mpispec.core.messages import ROOT, Draft, Follow, Prime, Retire, Stop

_CONFIDENCE = 0.85
"""Chance that a level's token is right before any has been verified; of no weight after a few."""


@dataclass(slots=True, eq=False)
class _Stream:
    """One request as seen from above."""

    tokens: list[Token]
    """Our text: the prompt, what we received from above, what we have decided since."""
    base: int = 0
    """How many of them we had when the last came from above; later ones are draft tokens, numbered by position."""
    epoch: int = 0


class LevelCore:
    """The protocol of a level; its head's stages and drafter are actors of their own."""

    def __init__(self, head: HeadCore, above: Actor, strategy: str) -> None:
        """`strategy` dispatches the runs of all requests; `above` is the head of the level above."""
        self._head = head
        self._above = above
        self._strategy = strategy
        self._streams: dict[RequestId, _Stream] = {}
        self._calibration = Calibration()

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event; return what to do about it."""
        match event:
            case Received(message=Prime() as prime):
                inner: list[Event] = self._prime(prime)
            case Received(message=Follow() as follow):
                inner = [self._follow(follow)]
            case Received(message=Retire(request)):
                del self._streams[request]
                inner = [Withdrawn(request)]
            case Received(message=Stop()):
                inner = [StopRequested()]
            case _:
                inner = [event]
        effects: list[Effect] = []
        for inner_event in inner:
            for effect in self._head.handle(inner_event, now):
                effects += self._draft(effect) if isinstance(effect, Emit) else [effect]
        return effects

    @property
    def is_idle(self) -> bool:
        """No request, no run in flight."""
        return not self._streams and self._head.is_idle

    def check(self) -> None:
        """Assert the invariants; tests call it after every event."""
        self._head.check()

    def _prime(self, prime: Prime) -> list[Event]:
        """Begin a request, within its limit at once: the first `Follow` may come long after we have reached it."""
        self._streams[prime.request] = _Stream(list(prime.tokens), len(prime.tokens), prime.epoch)
        config = self._head.config
        submitted = Submitted(
            prime.request,
            prime.tokens,
            config.context,  # the limit ends it sooner
            frozenset(),  # only the target's stop counts (as in PipeSpec)
            prime.sampling,
            self._strategy,
            "draft" if config.draft is not None else "none",
        )
        return [submitted, Corrected(prime.request, Pos(len(prime.tokens)), (), prime.limit)]

    def _follow(self, follow: Follow) -> Event:
        stream = self._streams.get(follow.request)
        if stream is None or follow.pos > len(stream.tokens):
            raise ProtocolError(f"tokens from position {follow.pos} on were accepted of an unknown text")
        if follow.epoch != stream.epoch:  # what was taken back above was our own text too
            stream.epoch = follow.epoch
            agreed = 0
        else:
            agreed = self._agreed(stream.tokens[follow.pos :], follow.tokens)
        pos = Pos(follow.pos + agreed)
        rest = follow.tokens[agreed:]
        if rest:
            stream.tokens[pos:] = rest
            stream.base = len(stream.tokens)
        return Corrected(follow.request, pos, rest, follow.limit)

    def _agreed(self, ours: Sequence[Token], theirs: Sequence[Token]) -> int:
        """Return how many tokens from the first on are the same; learn how often ours are right."""
        for index, (one, other) in enumerate(zip(ours, theirs, strict=False)):
            self._calibration.learn(_CONFIDENCE, one == other)
            if one != other:
                return index
        return min(len(ours), len(theirs))

    def _draft(self, emit: Emit) -> list[Effect]:
        """Send the level above what we have decided: a chain that goes on where the last one ended."""
        stream = self._streams.get(emit.request)
        if stream is None or not emit.tokens:
            return []  # the request has ended above
        first = len(stream.tokens)
        stream.tokens += emit.tokens
        draft = Draft(
            emit.request,
            Pos(first - 1),
            first,
            tuple(ROOT if pos == stream.base else pos - 1 for pos in range(first, len(stream.tokens))),
            emit.tokens,
            (self._calibration.chance(_CONFIDENCE),) * len(emit.tokens),
            stream.epoch,
        )
        return [Send(self._above, Plane.DRAFT, draft)]
