"""The engine as the rest of the program sees it: submit token ids, hear tokens, from any thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from mpispec.core.effects import FinishReason
from mpispec.core.messages import Sampling


@dataclass(frozen=True, slots=True)
class Generation:
    """What somebody wants generated."""

    prompt: tuple[int, ...]
    """Token ids, at least one, fewer than the context."""
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    strategy: str | None = None
    """None: the engine's current default."""
    proposer: str | None = None
    """None: the engine's default."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Tokens that have just become final."""

    tokens: tuple[int, ...]
    finish: FinishReason | None
    """Set with the last call for a request: `stop` (end-of-text token, included in `tokens`), `length`, `cancelled`."""
    when: float
    """Seconds on the monotonic clock."""


class EngineStopped(Exception):
    """The engine has ended and takes no more requests."""


class Engine(Protocol):
    """Lives on rank 0. Every method may be called from any thread and returns at once."""

    context: int
    """Positions a request may have, prompt and answer together."""
    strategies: tuple[str, ...]
    """Names a generation may choose from."""
    proposers: tuple[str, ...]
    """Names a generation may choose from; `none` always among them."""
    default_strategy: str
    """May be assigned; used by later generations that name none."""
    default_proposer: str

    @property
    def is_running(self) -> bool:
        """Whether requests are taken."""

    def submit(self, generation: Generation, listener: Callable[[Progress], None]) -> int:
        """Queue a generation and return its request id.

        `listener` is called on the engine's own thread, so it must be quick and must not raise. Raises ValueError
        with a sentence if the generation cannot fit, EngineStopped after `stop`.
        """

    def withdraw(self, request: int) -> None:
        """End a request early; its listener hears `cancelled` unless it has ended already."""

    def report(self, request: int) -> dict[str, Any]:
        """What happened to a finished request, JSON-ready: timing and speculation as `generate --json` prints them.

        Nothing where many others have ended since: a client may take its answer slowly.
        """

    def stats(self) -> dict[str, Any]:
        """Totals since the start, JSON-ready: requests, tokens, speculation counters, queue length."""

    def stop(self) -> None:
        """End the program on all ranks; running requests hear `cancelled`."""
