"""What a core receives. Events are facts, named in the past tense.

Those on every token's way are named tuples, here as among effects and messages: a frozen dataclass takes three times
as long to make (0.9 us against 0.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from mpispec.core.ids import Actor, Pos, RequestId, RunId, Token
from mpispec.core.messages import Message, Sampling, Score

Payload = bytes | bytearray | memoryview | None
"""Activations as raw bytes: rows x width of the wire's dtype, row-major; None where a message carries none."""


class Received(NamedTuple):
    """A message arrived."""

    src: Actor
    message: Message
    payload: Payload = None


DraftToken = tuple[Token, float]
"""A token and its probability."""


class Computed(NamedTuple):
    """A stage's compute of a run ended; `aborted` if it was given up on request, else payload or tokens are set."""

    run_id: RunId
    payload: Payload
    tokens: tuple[Token, ...]
    """The last stage's decisions, one for each deciding row."""
    aborted: bool
    draft_tokens: tuple[DraftToken, ...] = ()
    """A stage with an exit: its draft token after each deciding row."""
    scores: tuple[Score | None, ...] = ()
    """See `Result`."""


@dataclass(frozen=True, slots=True)
class Drafted:
    """A draft's compute of a run ended."""

    run_id: RunId
    draft_tokens: tuple[tuple[DraftToken, ...], ...]
    """For each deciding row its likeliest successors, best first."""
    aborted: bool


@dataclass(frozen=True, slots=True)
class Submitted:
    """Someone wants a continuation of `prompt` of at most `max_tokens` tokens, ending early at one of `stops`."""

    request: RequestId
    prompt: tuple[Token, ...]
    max_tokens: int
    stops: frozenset[Token]
    sampling: Sampling
    strategy: str
    """Name of the strategy that dispatches this request's runs."""
    drafter: str
    """What drafts: `draft`, `exit`, a key of the head's drafters, a mix like `draft+ngram`, or `none`."""
    priority: int = 0
    """Where there is too little of anything, requests of lower numbers come first, within limits (ADR 0045)."""
    deadline: float | None = None
    """Clock of the head when the request ends with what it has."""


@dataclass(frozen=True, slots=True)
class Corrected:
    """A level is corrected from above: its text from `pos` on is `tokens`, and it may decide tokens before `limit`."""

    request: RequestId
    pos: Pos
    tokens: tuple[Token, ...]
    """Empty where only the limit has moved."""
    limit: Pos


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Nobody wants the rest of this request."""

    request: RequestId


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The program is to end."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Nothing happened for a while; deadlines may have passed."""


Event = Received | Computed | Drafted | Submitted | Corrected | Withdrawn | StopRequested | Tick


class ProtocolError(Exception):
    """An event that cannot happen in the present state: a bug, ours or a peer's. The job ends with it."""
