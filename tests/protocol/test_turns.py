"""Requests that run at once take turns, however much there is to dispatch for each (design, Credits)."""

from __future__ import annotations

import pytest

from mpispec.compute.toy import reference
from mpispec.core.config import HeadConfig
from mpispec.core.events import Submitted
from mpispec.core.head import HeadCore
from mpispec.core.ids import Actor, RequestId, Token
from mpispec.core.messages import Sampling
from mpispec.core.stage import StageCore
from mpispec.drafters.beam import Beam
from mpispec.drafters.oracle import Oracle
from mpispec.sim.cluster import VirtualCluster
from mpispec.sim.costs import Modelled
from mpispec.strategies import PRESETS
from tests.protocol.toys import ToyTarget

pytestmark = pytest.mark.protocol

VOCABULARY = 50
TOKENS = 120
LONGEST_RUN = 32
STAGES = 4
PROMPT = (Token(1), Token(2), Token(3))


def written(acceptance_rate: float, strategy: str, num_requests: int) -> list[int]:
    """Return the requests in the order in which their tokens became final; each always has something to dispatch."""
    answer = reference(PROMPT, TOKENS, STAGES, VOCABULARY)
    config = HeadConfig(STAGES, None, context=2 * TOKENS, sequences=12, max_active=num_requests)
    cluster = VirtualCluster(
        HeadCore(config, PRESETS, {"oracle": lambda _: Beam(Oracle([*PROMPT, *answer], acceptance_rate, VOCABULARY))}),
        [StageCore(Actor(index), STAGES, 1000) for index in range(1, STAGES + 1)],
        None,
        Modelled(stage_s=(0.01,) * STAGES, link_s=1e-4),
        ToyTarget(STAGES, VOCABULARY),
    )
    for request in range(num_requests):
        cluster.at(0.0, Submitted(RequestId(request), PROMPT, TOKENS, frozenset(), Sampling(), strategy, "oracle"))
    cluster.run()
    assert all(cluster.answers[request].tokens == answer for request in range(num_requests))
    moments = [(time, request) for request, answered in cluster.answers.items() for time in answered.times]
    return [request for _, request in sorted(moments)]


@pytest.mark.parametrize("strategy", ["pipeinfer", "auto"])
@pytest.mark.parametrize("acceptance_rate", [1.0, 0.5, 0.0])
def test_no_request_starves_next_to_one_that_always_drafts(strategy: str, acceptance_rate: float) -> None:
    order = written(acceptance_rate, strategy, 2)
    for end in range(len(order)):
        ahead = abs(order[:end].count(0) - order[:end].count(1))
        assert ahead <= LONGEST_RUN + STAGES, f"one request is {ahead} tokens ahead of the other after {end}"


def test_requests_whose_draft_tokens_are_accepted_alternate() -> None:
    order = written(1.0, "pipeinfer", 3)
    steady = order[3 * STAGES : -3 * STAGES]
    assert steady == (steady[:3] * len(steady))[: len(steady)]
    assert set(steady[:3]) == {0, 1, 2}
