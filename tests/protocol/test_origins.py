"""Where each token of an answer came from, as the head says it with the tokens."""

from __future__ import annotations

import pytest

from mpispec.compute.toy import reference
from mpispec.core.config import HeadConfig
from mpispec.core.effects import Effect, Emit, Origin
from mpispec.core.events import Received, Submitted
from mpispec.core.head import HeadCore
from mpispec.core.ids import HEAD, Actor, NodeId, RequestId, RunId, Token
from mpispec.core.messages import EarlyDraft, Result, Run, Sampling
from mpispec.core.stage import StageCore
from mpispec.core.tree import BY_EXIT
from mpispec.sim.cluster import VirtualCluster
from mpispec.sim.costs import Modelled
from mpispec.strategies import PRESETS
from tests.protocol.toys import ScriptedExits, ToyTarget

pytestmark = pytest.mark.protocol

REQUEST = RequestId(0)
FIRST, LAST = Actor(1), Actor(3)


def emitted(effects: list[Effect]) -> list[Emit]:
    return [effect for effect in effects if isinstance(effect, Emit)]


def drafted(core: HeadCore, run: int, node: int, token: int) -> int:
    """Deliver a draft token; return the node of the row it was dispatched in."""
    early = EarlyDraft(RunId(run), (REQUEST,), (NodeId(node),), (Token(token),), (0.9,))
    effects = core.handle(Received(FIRST, early), 0.0)
    (message,) = [effect.message for effect in effects if isinstance(getattr(effect, "message", None), Run)]
    return message.rows[0].node


def decided(core: HeadCore, run: int, node: int, token: int) -> Emit:
    """Deliver what the stages decided after one row; return the tokens that became final."""
    (emit,) = emitted(
        core.handle(Received(LAST, Result(RunId(run), (REQUEST,), (NodeId(node),), (Token(token),))), 0.0)
    )
    return emit


@pytest.fixture
def core() -> HeadCore:
    """Return a head of three stages with one open request, whose messages are made by hand."""
    core = HeadCore(HeadConfig(3, None, context=64, sequences=4, first_queue=8), PRESETS, {})
    core.handle(Submitted(REQUEST, (Token(1), Token(2)), 16, frozenset(), Sampling(), "speed", "exit"), 0.0)
    return core


def test_a_draft_token_that_was_right_is_told_from_what_the_target_decided_alone(core: HeadCore) -> None:
    node = drafted(core, 0, 1, 7)
    assert decided(core, 0, 1, 7).origins == (Origin(BY_EXIT),)
    assert decided(core, 1, node, 8).origins == (Origin(0),)


def test_draft_tokens_computed_in_vain_come_with_the_token_that_rejected_them(core: HeadCore) -> None:
    node = drafted(core, 0, 1, 7)
    drafted(core, 1, node, 8)
    assert decided(core, 0, 1, 5).origins == (Origin(0, (Token(7), Token(8))),)


@pytest.mark.parametrize("acceptance_rate", [0.3, 0.8])
def test_origins_add_up_to_the_counters(acceptance_rate: float) -> None:
    stages, vocabulary, length = 4, 50, 200
    prompt = (Token(1), Token(2), Token(3))
    answer = reference(prompt, length, stages, vocabulary)
    exits = ScriptedExits([[*prompt, *answer]], {FIRST: acceptance_rate}, vocabulary)
    cluster = VirtualCluster(
        HeadCore(HeadConfig(stages, None, context=1000, sequences=4), PRESETS, {}),
        [StageCore(Actor(index), stages, 1000, has_exit=index == FIRST) for index in range(1, stages + 1)],
        None,
        Modelled(stage_s=(0.01,) * stages, link_s=1e-4),
        ToyTarget(stages, vocabulary, exits),
    )
    emits: list[Emit] = []
    cluster.watch = lambda actor, effect: emits.extend(emitted([effect]) if actor == HEAD else [])
    cluster.at(0.0, Submitted(REQUEST, prompt, length, frozenset(), Sampling(), "speed", "exit"))
    cluster.run()
    assert all(len(emit.origins) == len(emit.tokens) for emit in emits)
    origins = [origin for emit in emits for origin in emit.origins]
    statistics = cluster.answers[0].statistics
    assert statistics is not None
    assert len(origins) == length
    assert sum(origin.drafters == BY_EXIT for origin in origins) == statistics.accepted > 0
    rejected = sum(len(origin.rejected) for origin in origins)
    left = statistics.drafted - statistics.accepted - rejected  # in flight when the last token came
    assert rejected > 0
    assert 0 <= left < 2 * stages
