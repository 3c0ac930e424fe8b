"""The engine as the rest of the program sees it: submit token ids, receive tokens, from any thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from mpispec.core.effects import Emit, FinishReason, Origin
from mpispec.core.events import Event, StopRequested, Submitted, Withdrawn
from mpispec.core.ids import RequestId, Token
from mpispec.core.messages import Sampling, Score
from mpispec.core.statistics import RunCounts
from mpispec.runtime.rank_work import RankWork
from mpispec.runtime.text_promise import TextPromise
from mpispec.runtime.timeline import Timeline
from mpispec.runtime.totals import Totals
from mpispec.wire.fields import MOST_BIAS, MOST_GRAMMAR_BYTES, SAMPLING_RANGES

MOST_REPORTS = 256
"""Ended requests whose report is kept (law 7)."""
_MOST_BIASES = 512
"""Tokens whose logits a request may change (law 7)."""
_MOST_STOPS = 256
"""Tokens of its own that may end a request (law 7)."""
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
    """With 0 nothing is written: the prompt is read, and scored where the sampling parameters ask for it."""
    sampling: Sampling = field(default_factory=Sampling)
    """The engine itself sets where the answer begins and what is held back."""
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
    min_tokens: int = 0
    """Before the answer has so many, no token is chosen that would end it."""
    ignore_eos: bool = False
    """Whether tokens that end a text are never chosen."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end the answer, besides those that end any text."""


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
    scores: tuple[Score, ...] = ()
    """Of these tokens, where the generation asks for scores; of its prompt as they come, before the first token.

    A position of the prompt may come twice; the later counts.
    """


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
        if generation.max_tokens < 0:
            raise ValueError("max_tokens must be at least 0.")
        if not -MAX_PRIORITY <= generation.priority <= MAX_PRIORITY:
            raise ValueError(f"priority must be from -{MAX_PRIORITY} to {MAX_PRIORITY}.")
        if generation.timeout_s is not None and not generation.timeout_s > 0:
            raise ValueError("timeout must be above 0 seconds.")
        self._check_sampling(generation)

    def _check_sampling(self, generation: Generation) -> None:
        """Raise ValueError with a sentence unless tokens can be decided so."""
        if not 0 <= generation.min_tokens <= generation.max_tokens:
            raise ValueError(f"min_tokens must be from 0 to max_tokens, which is {generation.max_tokens}.")
        if len(generation.stop_token_ids) > _MOST_STOPS:
            raise ValueError(f"stop_token_ids may have {_MOST_STOPS} entries.")
        biases = generation.sampling.logit_bias
        for what, tokens in (
            ("The prompt", generation.prompt),
            ("logit_bias", [token for token, _ in biases]),
            ("stop_token_ids", generation.stop_token_ids),
        ):
            if not all(0 <= token < self.vocabulary for token in tokens):
                raise ValueError(f"{what} has a token id outside the vocabulary of {self.vocabulary}.")
        if len(biases) > _MOST_BIASES or not all(abs(bias) <= MOST_BIAS for _, bias in biases):
            raise ValueError(f"logit_bias may have {_MOST_BIASES} entries from {-MOST_BIAS:g} to {MOST_BIAS:g}.")
        if len(generation.sampling.grammar.encode()) > MOST_GRAMMAR_BYTES:
            raise ValueError(f"A grammar may have up to {MOST_GRAMMAR_BYTES} bytes; send a shorter one.")
        for name, (low, high) in SAMPLING_RANGES.items():
            if not low <= getattr(generation.sampling, name) <= high:  # written so that NaN fails too
                raise ValueError(f"{name} must be from {low} to {high}.")


def _placed(generation: Generation, ends: frozenset[Token], stops: frozenset[Token]) -> Sampling:
    """Return how tokens are decided, now that the prompt is known, what ends any text, and what else ends this one."""
    begins = len(generation.prompt)
    never = tuple((token, -MOST_BIAS) for token in sorted(ends)) if generation.ignore_eos else ()
    return replace(
        generation.sampling,
        logit_bias=(*generation.sampling.logit_bias, *never),
        begins=begins,
        held=tuple(sorted(stops)) if generation.min_tokens else (),
        held_to=begins + generation.min_tokens if generation.min_tokens else 0,
    )


def _silenced(emit: Emit, num_prompt: int) -> Emit:
    """Return the same without tokens of an answer."""
    finish: FinishReason | None = "length" if emit.finish == "stop" else emit.finish
    scores = tuple(score for score in emit.scores if score.pos < num_prompt)
    return replace(emit, tokens=(), finish=finish, origins=(), scores=scores)


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
                not generation.max_tokens,
            )
            self._forget_old()
            tokens = tuple(Token(token) for token in generation.prompt)
            stops = self._stops.union(map(Token, generation.stop_token_ids))
            submitted = Submitted(
                RequestId(request),
                tokens,
                max(1, generation.max_tokens),
                stops,
                _placed(generation, self._stops, stops),
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
            if timeline.is_silent:
                emit = _silenced(emit, timeline.prompt_tokens)
            timeline.times += [now] * len(emit.tokens)
            timeline.statistics = emit.statistics
            self._num_tokens += len(emit.tokens)
            if emit.finish is not None:
                del self._listeners[emit.request]
                self._num_ended += 1
        listener(Progress(emit.tokens, emit.finish, now, emit.origins if timeline.is_traced else (), emit.scores))

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
