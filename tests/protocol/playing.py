"""What all random situations on the virtual cluster share: their requests, their checks, their breaches."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

import pytest

from mpispec.compute.base import ComputeError
from mpispec.core.events import ProtocolError, StopRequested, Submitted, Withdrawn
from mpispec.core.ids import RequestId, Token
from mpispec.core.messages import Sampling
from mpispec.sim.cluster import VirtualCluster

GREEDY = Sampling()
Breach = Callable[[pytest.MonkeyPatch], None]


class Situation(Protocol):
    """One seed's requests and what must come of them."""

    @property
    def seed(self) -> int: ...
    @property
    def strategy(self) -> str: ...
    @property
    def prompts(self) -> Sequence[Sequence[int]]: ...
    @property
    def lengths(self) -> Sequence[int]: ...
    @property
    def stop(self) -> int | None: ...
    def text(self, index: int) -> list[int]: ...


def placed(sampling: Sampling, prompt: Sequence[int]) -> Sampling:
    """Return the sampling parameters of a request with this prompt; `held_to` counts from its end."""
    return replace(sampling, begins=len(prompt), held_to=len(prompt) + sampling.held_to)


def submit(
    situation: Situation, cluster: VirtualCluster, drafter: str, rng: random.Random, sampling: Sampling = GREEDY
) -> None:
    """Put the requests on their way, and some withdrawals."""
    stops = frozenset() if situation.stop is None else frozenset([Token(situation.stop)])
    for index, (prompt, length) in enumerate(zip(situation.prompts, situation.lengths, strict=True)):
        when = rng.random() * 3
        tokens = tuple(Token(token) for token in prompt)
        request = RequestId(index)
        how = placed(sampling, prompt)
        cluster.at(when, Submitted(request, tokens, length, stops, how, situation.strategy, drafter))
        if rng.random() < 0.2:
            cluster.at(when + rng.random() * 5, Withdrawn(request))


def finish(situation: Situation, cluster: VirtualCluster) -> int:
    """Run the cluster to its end, assert that every request got its text; return the number of steps.

    A request that was withdrawn got a beginning of it.
    """
    cluster.run()
    for index in range(len(situation.prompts)):
        expected, answer = situation.text(index), cluster.answers[index]
        if answer.finish == "cancelled":
            assert answer.tokens == expected[: len(answer.tokens)]
        else:
            assert answer.tokens == expected, f"seed {situation.seed}, request {index}"
    cluster.check_drained()
    return cluster.steps


def assert_everyone_quits(situation: Situation, cluster: VirtualCluster) -> None:
    """End the program at some moment; assert that every actor quits and every request ends."""
    cluster.at(situation.seed % 15 * 0.5, StopRequested())
    cluster.run()
    assert cluster.quit == cluster.actors
    for index, answer in cluster.answers.items():
        assert answer.finish is not None
        assert answer.tokens == situation.text(index)[: len(answer.tokens)]


def assert_noticed(breach: Breach, seeds: Sequence[int], plays: Callable[[int], Iterable[object]]) -> None:
    """Assert that what `plays` does with one of the seeds fails, now that a breach has been committed."""
    for seed in seeds:
        try:
            list(plays(seed))
        except (AssertionError, ProtocolError, ComputeError):
            return
    pytest.fail(f"{breach.__name__} goes unnoticed in {len(seeds)} scenarios")
