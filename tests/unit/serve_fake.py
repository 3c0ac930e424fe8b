"""A small engine that really generates, on a thread of its own, over a vocabulary of bytes."""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import httpx

from mpispec.core.ids import Pos, Token
from mpispec.core.messages import Score
from mpispec.models.template import ChatTemplate
from mpispec.runtime.engine import EngineFacts, EngineStopped, Generation, Progress
from mpispec.runtime.text_promise import TextPromise
from mpispec.serve.http.address import Access, bind
from mpispec.serve.http.server import Server
from mpispec.serve.text.prompt import Prompts
from mpispec.serve.text.service import Manner, Service

START, END = 256, 257
SPECIAL = {"<|start|>": START, "<|end|>": END}
DEADLINE = 20.0
"""Seconds after which a test that waits has failed."""


class ByteVocabulary:
    """Each byte is a token; two control tokens frame the turns of a chat."""

    size = 258
    bos: int | None = None
    eos: int | None = END
    infill: tuple[int, int, int] | None = None
    eog = frozenset({END})
    controls = frozenset(SPECIAL)

    def tokenize(self, text: str, special: bool, begin: bool = True) -> list[int]:
        tokens: list[int] = []
        for part in re.split(f"({'|'.join(map(re.escape, SPECIAL))})", text):
            tokens += [SPECIAL[part]] if special and part in SPECIAL else part.encode()
        return tokens

    def piece(self, token: int, special: bool = False) -> bytes:
        names = {number: name.encode() for name, number in SPECIAL.items()} if special else {}
        return bytes([token]) if token < START else names.get(token, b"")


TURNS = (
    "{% if messages[0].role == 'assistant' %}{{ raise_exception('The user begins') }}{% endif %}"
    "{% for m in messages %}{{ '<|start|>' + m.role + '\n' + m.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)
"""Frames the turns; refuses a conversation that begins with the assistant, as real templates do."""


def last_words(prompt: Sequence[int]) -> bytes:
    """Return the last message of a chat prompt, or all of another prompt."""
    turns = bytes(token if token < START else 0 for token in prompt).split(b"\0")
    return turns[-3].partition(b"\n")[2] if START in prompt else turns[-1]


def answer_to(generation: Generation) -> Iterator[int | None]:
    """Repeat the last words. None: think until withdrawn, or out of time (after `wait`). `forever` has no end.

    What comes after `write:` is the answer as it stands. `stall` is thought about before the first token.
    """
    words = last_words(generation.prompt)
    if words.startswith(b"stall"):
        yield None
    if words.startswith(b"write:"):
        yield from words.removeprefix(b"write:")
        yield END
    if words.startswith(b"forever"):
        yield from itertools.cycle(words)
    yield from b"You said: " + words
    if words.startswith(b"wait"):
        yield None
    yield END


def score_of(pos: int, token: int, count: int) -> Score:
    """Return what the fake model gives a token: of even ones it is sure, before others comes the token before them."""
    best = token - token % 2
    top = [(Token(best + step), -0.25 - step) for step in range(count)]
    return Score(Pos(pos), Token(token), -0.25 - (token - best), tuple(top))


class FakeEngine:
    """Answers one request after the other, in portions of 1, 3 and 2 tokens as speculation would."""

    def __init__(self, context: int = 512) -> None:
        strategies, drafters = ("plain", "sync", "pipeinfer"), ("none", "ngram", "draft")
        self.facts = EngineFacts(context, ByteVocabulary.size, strategies, drafters, TextPromise())
        self.default_strategy = "pipeinfer"
        self.default_drafter = "ngram"
        self.generations: list[Generation] = []
        self.stopped = False
        self.num_tokens = 0
        self.cached_tokens = 0
        """What is said of every prompt."""
        self._changed = threading.Condition()
        self._queue: deque[tuple[int, Generation, Callable[[Progress], None]]] = deque()
        self._withdrawn: set[int] = set()
        self._ended: set[int] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        return not self.stopped

    def submit(self, generation: Generation, listener: Callable[[Progress], None]) -> int:
        with self._changed:
            if self.stopped:
                raise EngineStopped
            if generation.sampling.top_k == 13:
                raise ValueError("This engine takes no 13.")
            self.generations.append(generation)
            request = len(self.generations)
            self._queue.append((request, generation, listener))
            self._changed.notify_all()
            return request

    def withdraw(self, request: int) -> None:
        with self._changed:
            self._withdrawn.add(request)
            self._changed.notify_all()

    def report(self, request: int) -> dict[str, object]:
        assert request in self._ended
        return {
            "cached_tokens": self.cached_tokens,
            "timing": {"tokens_per_s": 12.5},
            "speculation": {"acceptance_rate": 0.75},
            "ranks": [],
        }

    def stats(self) -> dict[str, object]:
        """Pretend a run of two rows for each token."""
        runs = self.num_tokens
        speculation = {"drafted": 8 * runs, "accepted": 3 * runs, "verified": 4 * runs, "acceptance_rate": 0.75}
        return {
            "uptime_s": 2.0,
            "requests": len(self.generations),
            "tokens": self.num_tokens,
            "speculation": {"acceptance_rate": 0.75},
            **speculation,
            "drafters": {"ngram": speculation},
            "runs": runs,
            "cancelled_runs": 0,
            "cancelled_rows": 5,
            "prompt_tokens": sum(len(generation.prompt) for generation in self.generations),
            "cached_tokens": 0,
            "preemptions": 1,
            "now": {
                "running": len(self.generations) - len(self._ended),
                "waiting": len(self._queue),
                "most_running": 1,
                "runs_in_flight": 0,
                "rows_in_flight": 0,
                "cells_used": 64,
                "cells": 256,
            },
            "dispatched": {"runs": runs, "rows": 2 * runs, "deciding_runs": runs, "deciding_rows": runs},
        }

    def ranks(self) -> dict[int, dict[str, object]]:
        return {
            0: {"host": "a", "roles": ["head", "stage 1"], "layers": [[0, 9]], "busy_s": 1.5, "sent": [0, 1000]},
            1: {"host": "b", "roles": ["stage 2"], "layers": [[10, 19]], "busy_s": 0.5, "sent": [300, 0]},
        }

    def stop(self) -> None:
        with self._changed:
            self.stopped = True
            self._changed.notify_all()

    def join(self) -> None:
        self.stop()
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()

    def await_requests(self, count: int) -> None:
        """Wait until `count` requests were submitted since the start."""
        self._await(lambda: len(self.generations) >= count)

    def await_withdrawn(self, request: int) -> None:
        """Wait until someone withdraws a request (the first is 1)."""
        self._await(lambda: request in self._withdrawn)

    def is_withdrawn(self, request: int) -> bool:
        return request in self._withdrawn

    def _await(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, DEADLINE)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self.stopped)
                if not self._queue:
                    return
                request, generation, listener = self._queue.popleft()
            self._generate(request, generation, listener)

    def _generate(self, request: int, generation: Generation, listener: Callable[[Progress], None]) -> None:
        sizes = itertools.cycle((1, 3, 2))
        portion: list[int] = []
        size = next(sizes)
        listener = self._scoring(generation, listener)
        if not generation.max_tokens:
            self._end(request)
            listener(Progress((), "length", 0.0))
            return
        for count, token in enumerate(answer_to(generation), 1):
            if token is None:
                listener(Progress(tuple(portion), None, time.monotonic()))
                portion = []
                if generation.timeout_s is not None:
                    self._end(request)
                    listener(Progress((), "timeout", 0.0))
                    return
                self._await(lambda: request in self._withdrawn or self.stopped)
            if request in self._withdrawn or self.stopped:
                self._end(request)
                listener(Progress((), "cancelled", time.monotonic()))
                return
            assert token is not None
            self.num_tokens += 1
            portion.append(token)
            if token == END or count == generation.max_tokens:
                self._end(request)
                listener(Progress(tuple(portion), "stop" if token == END else "length", time.monotonic()))
                return
            if len(portion) == size:
                listener(Progress(tuple(portion), None, time.monotonic()))
                portion, size = [], next(sizes)

    def _scoring(self, generation: Generation, listener: Callable[[Progress], None]) -> Callable[[Progress], None]:
        """Hand on the scores of a prompt, in two parts; return a listener that gets those of the answer with it."""
        prompt, sampling = generation.prompt, generation.sampling
        if sampling.top_logprobs < 0:
            return listener
        if sampling.scores_prompt:
            scores = [score_of(pos, token, sampling.top_logprobs) for pos, token in enumerate(prompt)][1:]
            for part in (scores[:2], scores[2:]):
                listener(Progress((), None, 0.0, scores=tuple(part)))
        positions = itertools.count(len(prompt))

        def listen(progress: Progress) -> None:
            found = tuple(score_of(next(positions), token, sampling.top_logprobs) for token in progress.tokens)
            listener(replace(progress, scores=found))

        return listen

    def _end(self, request: int) -> None:
        with self._changed:
            self._ended.add(request)
            self._changed.notify_all()


def make_service(
    engine: FakeEngine,
    manner: Manner | None = None,
    greeting: str = "",
    template: str = TURNS,
    vocabulary: ByteVocabulary | None = None,
) -> Service:
    vocabulary = vocabulary or ByteVocabulary()
    return Service(
        engine=engine,
        vocabulary=vocabulary,
        prompts=Prompts(vocabulary, ChatTemplate(template)),
        model="toy",
        manner=manner or Manner(),
        greeting=greeting,
    )


@contextmanager
def serving(
    engine: FakeEngine,
    key: str | None = None,
    service: Service | None = None,
    origins: tuple[str, ...] = (),
    ping_s: float = 0.0,
) -> Iterator[str]:
    """Serve an engine on a free port; yields the address."""
    access = Access(frozenset([key] if key else []), origins)
    server = Server(service or make_service(engine), bind("127.0.0.1", 0), access, ping_s)
    server.start()
    try:
        yield server.url
    finally:
        engine.join()
        server.stop()


@contextmanager
def connected(engine: FakeEngine, service: Service | None = None) -> Iterator[httpx.Client]:
    """Serve an engine; yields a client of the server."""
    with (
        serving(engine, service=service) as url,
        httpx.Client(base_url=url, timeout=DEADLINE, trust_env=False) as client,
    ):
        yield client
