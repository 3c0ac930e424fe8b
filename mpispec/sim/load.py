"""A server under load in virtual time: many requests come, wait, run side by side and are given up."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, replace
from typing import Any

from mpispec.core.effects import Effect, Emit, Send
from mpispec.core.events import Withdrawn
from mpispec.core.ids import HEAD, Actor, RequestId, Token
from mpispec.core.messages import Run
from mpispec.core.statistics import RunCounts, Statistics
from mpispec.load import Load, Planned, Served, figures, planned, work
from mpispec.sim.script import VOCABULARY, Script
from mpispec.sim.study import MOST_STEPS, PROMPT_TOKENS, Study, cluster_of, submission, uncollected

MOST_REQUESTS = 4096
"""The script remembers every node of every request; and the first token of each is its number."""


@dataclass(frozen=True)
class LoadOutcome:
    """How one strategy did under a load."""

    strategy: str
    served: list[Served]
    figures: dict[str, Any]
    """Those of `mpispec.load.figures` and `work`; JSON-ready."""


def serve(name: str, study: Study, load: Load) -> LoadOutcome:
    """Have one strategy serve a load.

    Of the study, the lengths are not used: they are the load's, in tokens. At most `study.num_requests` requests run at
    once, others wait. Raises AssertionError where an answer is not the script's.
    """
    serving = _Serving(name, study, load)
    serving.run()
    return LoadOutcome(name, serving.served, serving.figures())


class _Serving:
    """The server and its clients."""

    def __init__(self, name: str, study: Study, load: Load) -> None:
        self._name = name
        self._load = load
        self._plans = planned(load)
        self._texts = _texts(self._plans, load.seed)
        longest = max(plan.prompt + plan.answer for plan in self._plans)
        self._cluster = cluster_of(
            name, replace(study, num_tokens=max(1, longest - PROMPT_TOKENS)), Script(self._texts)
        )
        self._cluster.watch = self._watch
        self._num_stages = study.num_stages
        self._counts = RunCounts()
        self._statistics: dict[int, Statistics] = {}
        self._waiting = deque(self._plans)
        """Requests that no client of the closed loop has sent yet."""
        self._withdrawn: set[int] = set()
        self.served = [Served(plan, plan.arrival_s, prompt_tokens=plan.prompt) for plan in self._plans]

    def run(self) -> None:
        """Serve all of it and check the answers."""
        if self._load.rate is None:
            for _ in range(self._load.concurrency):
                self._ask_next()
        else:
            for plan in self._plans:
                self._ask(plan, plan.arrival_s)
        with uncollected():
            self._cluster.run(MOST_STEPS)
        self._cluster.check_drained()
        for served in self.served:
            self._check(served)

    def figures(self) -> dict[str, Any]:
        """Return what clients and server saw."""
        total = Statistics()
        for statistics in self._statistics.values():
            total.add(statistics)
        stages = self._cluster.busy_s[1 : 1 + self._num_stages]
        busy = {f"stage {number}": seconds for number, seconds in enumerate(stages, 1)}
        if len(self._cluster.busy_s) > 1 + self._num_stages:
            busy["draft"] = self._cluster.busy_s[-1]
        return figures(self.served) | work(self._counts, total, busy, self._cluster.now)

    def _ask_next(self) -> None:
        if self._waiting:
            self._ask(self._waiting.popleft(), self._cluster.now)

    def _ask(self, plan: Planned, when: float) -> None:
        request = RequestId(plan.index)
        self.served[request].asked_s = when
        prompt = self._texts[request][: plan.prompt]
        self._cluster.at(when, submission(self._name, request, prompt, plan.answer))

    def _watch(self, actor: Actor, effect: Effect) -> None:
        match effect:
            case Send(message=Run() as run) if actor == HEAD:
                self._counts.count(run)
            case Emit():
                self._emitted(effect)

    def _emitted(self, emit: Emit) -> None:
        """Be the client that receives this: note it, hang up, ask again."""
        now, served = self._cluster.now, self.served[emit.request]
        served.times += [now] * len(emit.tokens)
        served.num_tokens += len(emit.tokens)
        if emit.statistics is not None:
            self._statistics[emit.request] = emit.statistics
        if emit.finish is not None:
            served.ended_s = now
            served.outcome = "cancelled" if emit.finish == "cancelled" else "ok"
            if self._load.rate is None:
                self._ask_next()
            return
        after = served.planned.cancel_after
        if after is not None and served.num_tokens >= after and emit.request not in self._withdrawn:
            self._withdrawn.add(emit.request)
            self._cluster.at(now, Withdrawn(emit.request))

    def _check(self, served: Served) -> None:
        plan = served.planned
        tokens = self._cluster.answers[plan.index].tokens
        expected = self._texts[RequestId(plan.index)][plan.prompt : plan.prompt + plan.answer]
        assert tokens == expected[: len(tokens)], f"{self._name} changed the text of request {plan.index}"
        least = plan.answer if served.outcome == "ok" else plan.cancel_after
        assert least is not None and len(tokens) >= least, f"request {plan.index} ended early"


def _texts(plans: list[Planned], seed: int) -> dict[RequestId, list[Token]]:
    """Draw a text for each request, prompt and answer and one token more.

    The first token is the request's number: the script knows no cells, so nothing may be found in the cache of another.
    """
    rng = random.Random(f"{seed} texts")
    return {
        RequestId(plan.index): [
            Token(plan.index),
            *(Token(rng.randrange(VOCABULARY)) for _ in range(plan.prompt + plan.answer)),
        ]
        for plan in plans
    }
