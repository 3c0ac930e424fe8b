"""What a core asks for. Effects are imperatives; the driver performs them and reports back with events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from mpispec.core.events import Payload
from mpispec.core.ids import Actor, Plane, RequestId, RunId, Token
from mpispec.core.messages import CacheOp, Message, Open, Run, Score
from mpispec.core.statistics import Statistics

FinishReason = Literal["stop", "length", "cancelled", "timeout"]


class Send(NamedTuple):
    """Send a message without waiting."""

    dst: Actor
    plane: Plane
    message: Message
    payload: Payload = None


class Compute(NamedTuple):
    """Apply the run's cache operations, then compute its rows; answered by one `Computed`."""

    run: Run
    payload: Payload


@dataclass(frozen=True, slots=True)
class AbortCompute:
    """A request, not a kill: give up the run that is computing if that is still possible."""

    run_id: RunId


@dataclass(frozen=True, slots=True)
class ApplyCacheOps:
    """Apply cache operations alone (of a void run); not answered."""

    cache_ops: tuple[CacheOp, ...]


@dataclass(frozen=True, slots=True)
class OpenSampler:
    """Remember how the tokens of a request are decided (last stage)."""

    opened: Open


@dataclass(frozen=True, slots=True)
class CloseSampler:
    """Forget it again."""

    request: RequestId


@dataclass(frozen=True, slots=True)
class ComputeDraft:
    """Apply the run's cache operations, compute its rows, find deciding rows' successors; answered by one `Drafted`."""

    run: Run
    branch: int
    """Most successors for one row."""


@dataclass(frozen=True, slots=True)
class AbortDraft:
    """Give up the draft run that is computing if that is still possible."""


class Origin(NamedTuple):
    """What speculation had to do with an accepted token."""

    drafters: int
    """Who drafted it, as bits of `Node.drafters`; 0 unless its draft was in flight when it was decided."""
    rejected: tuple[Token, ...] = ()
    """Draft tokens in flight that its decision rejected: those in its place and all below them, parents first."""


@dataclass(frozen=True, slots=True)
class Emit:
    """Hand accepted tokens to the one who submitted the request; `finish` is set with the last of them."""

    request: RequestId
    tokens: tuple[Token, ...]
    finish: FinishReason | None
    statistics: Statistics | None
    """The request's counters; None if it never began."""
    origins: tuple[Origin, ...] = ()
    """One for each token."""
    scores: tuple[Score, ...] = ()
    """Of these tokens, where the request asks for scores; of its prompt as they come, before the first token."""


@dataclass(frozen=True, slots=True)
class Quit:
    """Leave the loop of this rank."""


Effect = (
    Send | Compute | AbortCompute | ApplyCacheOps | OpenSampler | CloseSampler | ComputeDraft | AbortDraft | Emit | Quit
)
