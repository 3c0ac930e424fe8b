"""In virtual time a filled pipeline reaches the law of docs/methodology.md: 1 / (tau (1 + (1 - h)(D - 1)))."""

from __future__ import annotations

import pytest

from mpispec.compute.toy import reference
from mpispec.core.config import HeadConfig
from mpispec.core.draft import DraftCore
from mpispec.core.events import Submitted
from mpispec.core.head import HeadCore
from mpispec.core.ids import Actor, RequestId, Token
from mpispec.core.messages import Sampling
from mpispec.core.stage import StageCore
from mpispec.drafters.beam import Beam
from mpispec.drafters.oracle import Oracle
from mpispec.sim.cluster import VirtualCluster
from mpispec.sim.costs import Modelled, law_speedup
from mpispec.strategies import PRESETS
from tests.protocol.toys import ScriptedDraft, ToyTarget

pytestmark = pytest.mark.protocol

VOCABULARY = 50
TOKENS = 300


def _tokens_per_s(num_stages: int, acceptance_rate: float, strategy: str, drafter: str) -> float:
    prompt = (Token(1), Token(2), Token(3))
    answer = reference(prompt, TOKENS, num_stages, VOCABULARY)
    text = [*prompt, *answer]
    has_draft = drafter == "draft"
    draft = (DraftCore(64), ScriptedDraft([text], acceptance_rate, VOCABULARY)) if has_draft else None
    config = HeadConfig(num_stages, Actor(num_stages + 1) if has_draft else None, context=1000, sequences=4)
    cluster = VirtualCluster(
        HeadCore(config, PRESETS, {"oracle": lambda _: Beam(Oracle(text, acceptance_rate, VOCABULARY))}),
        [StageCore(Actor(index), num_stages, 1000) for index in range(1, num_stages + 1)],
        draft,
        Modelled(stage_s=(0.01,) * num_stages, draft_s=0.002, link_s=1e-4),
        ToyTarget(num_stages, VOCABULARY),
        check=False,
    )
    request = Submitted(RequestId(0), prompt, TOKENS, frozenset(), Sampling(), strategy, drafter)
    cluster.at(0.0, request)
    cluster.run()
    assert cluster.answers[0].tokens == answer
    times = cluster.answers[0].times
    return (TOKENS - 1) / (times[-1] - times[0])


@pytest.mark.parametrize("num_stages", [2, 4, 8])
@pytest.mark.parametrize("acceptance_rate", [0.5, 0.8, 0.94])
@pytest.mark.parametrize("drafter", ["oracle", "draft"])
def test_pipeinfer_reaches_the_law(num_stages: int, acceptance_rate: float, drafter: str) -> None:
    plain = _tokens_per_s(num_stages, 0.0, "plain", "none")
    speedup = _tokens_per_s(num_stages, acceptance_rate, "pipeinfer", drafter) / plain
    assert speedup >= 0.9 * law_speedup(num_stages, acceptance_rate)


@pytest.mark.parametrize("drafter", ["oracle", "draft"])
def test_draft_tokens_that_are_never_accepted_cost_next_to_nothing(drafter: str) -> None:
    plain = _tokens_per_s(4, 0.0, "plain", "none")
    assert _tokens_per_s(4, 0.0, "pipeinfer", drafter) >= 0.9 * plain
