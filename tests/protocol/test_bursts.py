"""Requests that come and go while a stage computes: what waits in front of the stages keeps its bound (law 7)."""

from __future__ import annotations

import pytest

from mpispec.core.config import HeadConfig, queue_limit
from mpispec.core.effects import Effect, Send
from mpispec.core.events import Received, Submitted, Withdrawn
from mpispec.core.head import HeadCore
from mpispec.core.ids import HEAD, Actor, Plane, Pos, RequestId, Token
from mpispec.core.level import LevelCore
from mpispec.core.messages import Close, Open, Prime, Result, Retire, Run, Sampling
from mpispec.core.stage import StageCore
from mpispec.sim.cluster import VirtualCluster
from mpispec.sim.costs import Modelled
from mpispec.strategies import PRESETS
from tests.protocol.toys import ToyTarget

pytestmark = pytest.mark.protocol

PROMPT = (Token(1), Token(2), Token(3))
BURST = 300


class Stubborn(Modelled):
    """Gives up no run."""

    def abort(self) -> float | None:
        """See `Costs`."""
        return None


def burst(num_stages: int, slow: int, parallel: int, gap_s: float) -> VirtualCluster:
    """Return a cluster with one slow stage, whose requests are withdrawn one after the other, `gap_s` apart."""
    config = HeadConfig(num_stages, None, context=64, sequences=parallel, max_active=parallel)
    stages = [StageCore(actor, num_stages, queue_limit(num_stages, parallel)) for actor in config.stages]
    costs = Stubborn(tuple(1000.0 if actor == slow else 0.001 for actor in config.stages))
    cluster = VirtualCluster(HeadCore(config, PRESETS, {}), stages, None, costs, ToyTarget(len(stages), 5))
    for index in range(BURST):
        request = RequestId(index)
        cluster.at(0.0, Submitted(request, PROMPT, 4, frozenset(), Sampling(), "plain", "none"))
        cluster.at(1.0 + index * gap_s, Withdrawn(request))
    return cluster


@pytest.mark.parametrize("gap_s", [0.0, 0.01, 10.0])
@pytest.mark.parametrize("parallel", [1, 4, 64])
@pytest.mark.parametrize(("num_stages", "slow"), [(1, 1), (2, 1), (2, 2), (3, 3)])
def test_a_burst_of_withdrawn_requests_ends_them_all(num_stages: int, slow: int, parallel: int, gap_s: float) -> None:
    cluster = burst(num_stages, slow, parallel, gap_s)
    cluster.run()
    cluster.check_drained()
    assert all(cluster.answers[index].finish is not None for index in range(BURST))


def test_a_level_opens_only_requests_whose_runs_it_dispatches() -> None:
    """The head above may begin and end requests as fast as its own stages void them."""
    head = HeadCore(HeadConfig(1, None, context=64, sequences=1, actor=Actor(2)), PRESETS, {})
    level = LevelCore(head, HEAD, "plain")
    effects: list[Effect] = []
    for index in range(BURST):
        request = RequestId(index)
        for message in (Prime(request, PROMPT, Pos(64), 1, 0.0, Sampling()), Retire(request)):
            effects += level.handle(Received(HEAD, message), 0.0)
    data = [effect.message for effect in effects if isinstance(effect, Send) and effect.plane is Plane.DATA]
    assert [type(message) for message in data] == [Open, Run, Close] * head.config.first_queue


def test_an_opened_request_counts_its_cached_positions() -> None:
    head = HeadCore(HeadConfig(1, None, context=64, sequences=1), PRESETS, {})
    sampling = Sampling(repeat_penalty=1.5)
    for index, prompt in enumerate([PROMPT, (*PROMPT, Token(4), Token(0))]):
        submitted = Submitted(RequestId(index), prompt, 1, frozenset(), sampling, "plain", "none")
        opened, run = (effect.message for effect in head.handle(submitted, 0.0) if isinstance(effect, Send))
        cached = index * len(PROMPT)
        assert opened == Open(RequestId(index), sampling, Pos(cached), prompt[:cached])
        assert isinstance(run, Run) and run.rows[0].pos == cached
        head.handle(
            Received(Actor(1), Result(run.run_id, (run.rows[-1].request,), (run.rows[-1].node,), (Token(4),))), 0.0
        )
