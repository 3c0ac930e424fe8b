"""The engine as the rest of the program sees it: submit token ids, receive tokens, from any thread."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from mpispec.core.effects import Emit, FinishReason, Origin
from mpispec.core.events import Event, StopRequested, Submitted, Withdrawn
from mpispec.core.ids import RequestId, Token
from mpispec.core.messages import Sampling, placed
from mpispec.core.statistics import RunCounts, Statistics
from mpispec.runtime.rank_work import RankWork
from mpispec.runtime.text_promise import TextPromise
from mpispec.runtime.totals import Totals
from mpispec.wire.fields import MOST_GRAMMAR_BYTES, SAMPLING_RANGES

MOST_REPORTS = 256
"""Ended requests whose report is kept (law 7)."""
MOST_OPEN = 1024
"""Requests that may wait or run (law 7)."""
MAX_PRIORITY = 1000
"""Priorities are from minus this to this."""


@dataclass(frozen=True, slots=True)
class Generation:
    """What is to be generated."""

    prompt: tuple[int, ...]
    """Token ids, at least one, fewer than the context."""
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    strategy: str | None = None
    """None: the engine's current default."""
    drafter: str | None = None
    """None: the engine's default."""
    priority: int = 0
    """Requests of lower numbers come first where there is too little for all, as in vLLM; see `Submitted`."""
    timeout_s: float | None = None
    """Seconds after which it ends with what it has, to within a second; None for no limit."""
    is_traced: bool = False
    """Whether its progress says where each token came from."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Tokens that have just become final."""

    tokens: tuple[int, ...]
    finish: FinishReason | None
    """Set with the last call for a request: `stop` (end-of-text token, included in `tokens`), `length`, `cancelled` or
    `timeout`."""
    when: float
    """Seconds on the monotonic clock."""
    origins: tuple[Origin, ...] = ()
    """One for each token where the generation is traced."""


class EngineStopped(Exception):
    """The engine has ended and takes no more requests."""


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What an engine takes; the same as long as it runs."""

    context: int
    """Positions a request may have, prompt and answer together."""
    vocabulary: int
    """Token ids are below this."""
    strategies: tuple[str, ...]
    """Names a generation may choose from."""
    drafters: tuple[str, ...]
    """Names a generation may choose from; `none` always among them."""
    promise: TextPromise
    """What is promised of the texts."""

    def check(self, generation: Generation) -> None:
        """Raise ValueError with a sentence unless the generation can be run."""
        strategy, drafter = generation.strategy, generation.drafter
        if strategy is not None and strategy not in self.strategies:
            raise ValueError(f"There is no strategy {strategy!r}; choose one of {', '.join(self.strategies)}.")
        if drafter is not None and drafter not in self.drafters:
            raise ValueError(f"There is no drafter {drafter!r} here; choose one of {', '.join(self.drafters)}.")
        if not generation.prompt:
            raise ValueError("The prompt is empty; give at least one token.")
        if len(generation.prompt) >= self.context:
            raise ValueError(
                f"The prompt has {len(generation.prompt)} tokens and the context {self.context}: "
                "shorten the prompt or start with a larger --ctx."
            )
        if generation.max_tokens < 1:
            raise ValueError("max_tokens must be at least 1.")
        if not -MAX_PRIORITY <= generation.priority <= MAX_PRIORITY:
            raise ValueError(f"priority must be from -{MAX_PRIORITY} to {MAX_PRIORITY}.")
        if generation.timeout_s is not None and not generation.timeout_s > 0:
            raise ValueError("timeout must be above 0 seconds.")
        if not all(0 <= token < self.vocabulary for token in generation.prompt):
            raise ValueError(f"The prompt has a token id outside the vocabulary of {self.vocabulary}.")
        grammar = generation.sampling.grammar
        if grammar is not None and not 0 < len(grammar.text.encode()) <= MOST_GRAMMAR_BYTES:
            raise ValueError(f"A grammar may have from 1 to {MOST_GRAMMAR_BYTES} bytes; send a shorter one.")
        for name, (low, high) in SAMPLING_RANGES.items():
            if not low <= getattr(generation.sampling, name) <= high:  # written so that NaN fails too
                raise ValueError(f"{name} must be from {low} to {high}.")


@dataclass(slots=True)
class Timeline:
    """When a request's tokens became final, and the figures that follow from it (docs/methodology.md).

    Times are seconds on the monotonic clock of rank 0.
    """

    submitted: float
    prompt_tokens: int
    strategy: str
    drafter: str
    seed: int
    is_traced: bool = False
    times: list[float] = field(default_factory=list)
    """One for each token of the answer."""
    statistics: Statistics | None = None

    def add_to(self, totals: Totals) -> None:
        """Add the request to totals, if it has begun."""
        if self.statistics is not None:
            totals.add(self.drafter, self.prompt_tokens, self.statistics)

    def report(self) -> dict[str, Any]:
        """Return the figures, JSON-ready."""
        statistics = self.statistics or Statistics()
        times = self.times
        began = statistics.began if statistics.began is not None else self.submitted
        decode_s = times[-1] - times[0] if times else 0.0
        gaps = sorted((later - earlier) * 1000 for earlier, later in itertools.pairwise(times))
        return {
            "strategy": self.strategy,
            "drafter": self.drafter,
            "seed": self.seed,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": statistics.cached,
            "tokens": len(times),
            "timing": {
                "prefill_s": round(times[0] - began, 6) if times else None,
                "ttft_s": round(times[0] - self.submitted, 6) if times else None,
                "queue_s": round(began - self.submitted, 6),
                "decode_s": round(decode_s, 6),
                "tokens_per_s": round((len(times) - 1) / decode_s, 3) if decode_s > 0 else None,
                "itl_ms": {"p50": _percentile(gaps, 0.5), "p95": _percentile(gaps, 0.95)},
            },
            "speculation": {
                "drafted": statistics.drafted,
                "accepted": statistics.accepted,
                "verified": statistics.verified,
                "acceptance_rate": None if statistics.acceptance_rate is None else round(statistics.acceptance_rate, 4),
                "runs": statistics.runs,
                "cancelled_runs": statistics.cancelled_runs,
                "void_runs": statistics.void_runs,
            },
            "preemptions": statistics.preemptions,
        }


def _percentile(ordered: list[float], share: float) -> float | None:
    """Return the nearest-rank percentile of an ordered list."""
    if not ordered:
        return None
    return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)], 3)


Listener = Callable[[Progress], None]


class Meter(Protocol):
    """What the driver of rank 0 counts."""

    dispatched: RunCounts

    def work(self) -> dict[int, RankWork]:
        """Return by rank what it has done since the start; from any thread but the driver's."""

    def occupancy(self) -> dict[str, int]:
        """Return what the head has in use; from any thread but the driver's."""


class Engine:
    """The engine of rank 0: every method may be called from any thread and returns at once.

    Tokens reach listeners on the driver's thread.
    """

    def __init__(
        self,
        context: int,
        vocabulary: int,
        stops: frozenset[int],
        strategies: Sequence[str],
        drafters: Sequence[str],
        default_strategy: str,
        default_drafter: str,
        promise: TextPromise,
    ) -> None:
        self.facts = EngineFacts(context, vocabulary, tuple(strategies), tuple(drafters), promise)
        self.default_strategy = default_strategy
        """May be assigned; used by later generations that name none."""
        self.default_drafter = default_drafter
        self.recorded: tuple[int, ...] = ()
        """Prompt and continuation that the oracle knows; empty until a plain run has written them."""
        self.places: tuple[dict[str, Any], ...] = ()
        """By rank, JSON-ready: `host`, `roles`, and `layers`, the first and the last of each stage that it holds."""
        self._stops = frozenset(Token(token) for token in stops)
        self._tell: Callable[[Event], None] | None = None
        self._meter: Meter | None = None
        self._lock = threading.Lock()
        self._listeners: dict[int, Listener] = {}
        self._timelines: dict[int, Timeline] = {}
        self._next = 0
        self._stopped = False
        self._num_ended = 0
        self._num_tokens = 0
        self._forgotten = Totals()
        """Counters of requests whose report is no longer kept."""
        self._began = time.monotonic()

    def attach(self, tell: Callable[[Event], None], meter: Meter | None = None) -> None:
        """Connect the engine to the driver that runs the head."""
        self._tell = tell
        self._meter = meter

    @property
    def is_running(self) -> bool:
        """Whether requests are taken."""
        return not self._stopped

    def submit(self, generation: Generation, listener: Listener) -> int:
        """Queue a generation and return its request id.

        `listener` is called on the driver's thread, so it must be quick and must not raise. Raises ValueError with a
        sentence if the generation cannot fit, EngineStopped after `stop`.
        """
        strategy = generation.strategy or self.default_strategy
        drafter = generation.drafter or self.default_drafter
        if strategy == "plain":
            drafter = "none"
        self.facts.check(generation)
        with self._lock:
            if self._stopped:
                raise EngineStopped("The engine has stopped; start mpispec again.")
            if len(self._listeners) >= MOST_OPEN:
                raise ValueError(f"{MOST_OPEN} requests are open already; wait until some have ended.")
            request = self._next
            self._next += 1
            self._listeners[request] = listener
            now = time.monotonic()
            self._timelines[request] = Timeline(
                now,
                len(generation.prompt),
                strategy,
                drafter,
                generation.sampling.seed,
                generation.is_traced,
            )
            self._forget_old()
            tokens = tuple(Token(token) for token in generation.prompt)
            submitted = Submitted(
                RequestId(request),
                tokens,
                generation.max_tokens,
                self._stops,
                placed(generation.sampling, len(tokens)),
                strategy,
                drafter,
                generation.priority,
                None if generation.timeout_s is None else now + generation.timeout_s,
            )
            self._send(submitted)
        return request

    def withdraw(self, request: int) -> None:
        """End a request early; its listener receives `cancelled` unless it has ended already."""
        with self._lock:
            if request in self._listeners and not self._stopped:
                self._send(Withdrawn(RequestId(request)))

    def report(self, request: int) -> dict[str, Any]:
        """Return what happened to a finished request, JSON-ready: timing and speculation as `generate --json` prints.

        Nothing where many others have ended since: a client may take its answer slowly.
        """
        timeline = self._timelines.get(request)
        return timeline.report() if timeline is not None else {}

    def stats(self) -> dict[str, Any]:
        """Return totals since the start, JSON-ready: requests, tokens, speculation counters, queue length.

        `runs` are counted by request, `dispatched` are all runs, each once, with their rows. `now` is what is in use.
        """
        dispatched = self._meter.dispatched if self._meter is not None else RunCounts()
        occupancy = self._meter.occupancy() if self._meter is not None else {}
        with self._lock:
            total, timelines = self._forgotten.copy(), list(self._timelines.values())
            counts = {
                "uptime_s": round(time.monotonic() - self._began, 3),
                "requests": self._next,
                "ended": self._num_ended,
                "open": len(self._listeners),
                "tokens": self._num_tokens,
            }
        for timeline in timelines:  # without the lock, for which the driver would have to wait
            timeline.add_to(total)
        return {
            **counts,
            **total.fields(),
            "dispatched": asdict(dispatched),
            "now": occupancy,
            "strategy": self.default_strategy,
            "drafter": self.default_drafter,
        }

    def ranks(self) -> dict[int, dict[str, Any]]:
        """Return by rank where it is, what it holds and what it has done since the start, JSON-ready.

        Besides `places` that is `busy_s`, the seconds that it has computed, and `sent`, the bytes of frames that it has
        sent to each rank. Ranks that do not say it within a second are missing.
        """
        works = self._meter.work() if self._meter is not None else {}
        places = dict(enumerate(self.places))
        return {
            rank: {**places.get(rank, {}), "busy_s": round(work.busy_s, 6), "sent": list(work.sent)}
            for rank, work in sorted(works.items())
        }

    def stop(self) -> None:
        """End the program on all ranks; running requests receive `cancelled`."""
        with self._lock:
            if not self._stopped:
                self._stopped = True
                self._send(StopRequested())

    def emitted(self, emit: Emit, now: float) -> None:
        """Hand tokens on; called by the driver."""
        with self._lock:
            listener = self._listeners[emit.request]
            timeline = self._timelines[emit.request]
            timeline.times += [now] * len(emit.tokens)
            timeline.statistics = emit.statistics
            self._num_tokens += len(emit.tokens)
            if emit.finish is not None:
                del self._listeners[emit.request]
                self._num_ended += 1
        listener(Progress(emit.tokens, emit.finish, now, emit.origins if timeline.is_traced else ()))

    def fail(self) -> None:
        """End every open request because the job is going down; called when the driver has ended."""
        with self._lock:
            self._stopped = True
            listeners, self._listeners = self._listeners, {}
        for listener in listeners.values():
            listener(Progress((), "cancelled", time.monotonic()))

    def _send(self, event: Event) -> None:
        assert self._tell is not None, "the engine is not attached to a driver"
        self._tell(event)

    def _forget_old(self) -> None:
        while len(self._timelines) > MOST_REPORTS + len(self._listeners):
            oldest = next(request for request in self._timelines if request not in self._listeners)
            self._timelines.pop(oldest).add_to(self._forgotten)
