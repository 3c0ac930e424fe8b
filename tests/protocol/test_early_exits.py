"""Early exits as drafters: what the head does with their draft tokens, and how much faster they make a pipeline."""

from __future__ import annotations

import pytest

from mpispec.compute.toy import reference
from mpispec.core.config import HeadConfig
from mpispec.core.effects import Effect, Send
from mpispec.core.events import Received, Submitted
from mpispec.core.head import HeadCore
from mpispec.core.ids import Actor, NodeId, RequestId, RunId, Token
from mpispec.core.messages import CacheOpKind, Cancel, EarlyDraft, Result, Run, Sampling
from mpispec.core.stage import StageCore
from mpispec.sim.cluster import VirtualCluster
from mpispec.sim.costs import Modelled, exit_speedup
from mpispec.strategies import PRESETS
from tests.protocol.toys import ScriptedExits, ToyTarget

pytestmark = pytest.mark.protocol

VOCABULARY = 50
TOKENS = 300
FIRST, SECOND, LAST = Actor(1), Actor(2), Actor(3)


class Head:
    """A head of three stages with one open request, whose messages are made by hand."""

    def __init__(self, drafter: str = "exit") -> None:
        self.core = HeadCore(HeadConfig(3, None, context=64, sequences=4, first_queue=8), PRESETS, {})
        prompt = (Token(1), Token(2))
        self.sent = self.core.handle(
            Submitted(RequestId(0), prompt, 16, frozenset(), Sampling(), "speed", drafter), 0.0
        )

    def receive(self, src: Actor, message: EarlyDraft | Result) -> list[Effect]:
        """Deliver a message; return what the head does."""
        effects = self.core.handle(Received(src, message), 0.0)
        self.core.check()
        return effects


def runs(effects: list[Effect]) -> list[Run]:
    """Return the runs that were dispatched."""
    return [effect.message for effect in effects if isinstance(effect, Send) and isinstance(effect.message, Run)]


def cancelled(effects: list[Effect]) -> set[int]:
    """Return the runs that were cancelled."""
    sent = [effect.message for effect in effects if isinstance(effect, Send)]
    return {run for message in sent if isinstance(message, Cancel) for run in message.run_ids}


def early(run: int, node: int, token: int, prob: float = 0.9) -> EarlyDraft:
    """Make an exit's draft token after one row."""
    return EarlyDraft(RunId(run), (RequestId(0),), (NodeId(node),), (Token(token),), (prob,))


def test_a_draft_token_is_dispatched_at_once_and_so_is_the_one_after_it() -> None:
    head = Head()
    (first,) = runs(head.sent)
    assert [row.token for row in first.rows] == [1, 2]
    (second,) = runs(head.receive(FIRST, early(0, 1, 7)))
    assert [(row.token, row.pos, row.parent) for row in second.rows] == [(7, 2, 1)]
    (third,) = runs(head.receive(FIRST, early(1, second.rows[0].node, 8)))
    assert [(row.token, row.pos) for row in third.rows] == [(8, 3)]


def test_a_deeper_exit_that_disagrees_replaces_a_draft_token_and_its_subtree() -> None:
    head = Head()
    (second,) = runs(head.receive(FIRST, early(0, 1, 7)))
    head.receive(FIRST, early(1, second.rows[0].node, 8))
    effects = head.receive(SECOND, early(0, 1, 9))
    assert cancelled(effects) == {1, 2}
    (instead,) = runs(effects)
    assert [(row.token, row.pos) for row in instead.rows] == [(9, 2)]
    assert [(cache_op.kind, cache_op.start) for cache_op in instead.cache_ops] == [(CacheOpKind.DROP, 2)]


def test_a_deeper_exit_that_agrees_changes_nothing() -> None:
    head = Head()
    head.receive(FIRST, early(0, 1, 7))
    assert head.receive(SECOND, early(0, 1, 7)) == []


def test_a_shallower_exit_that_comes_late_is_ignored() -> None:
    head = Head()
    head.receive(SECOND, early(0, 1, 9))
    assert head.receive(FIRST, early(0, 1, 7)) == []


def test_draft_tokens_below_decided_dead_or_unknown_nodes_are_dropped() -> None:
    head = Head()
    (second,) = runs(head.receive(FIRST, early(0, 1, 7)))
    head.receive(LAST, Result(RunId(0), (RequestId(0),), (NodeId(1),), (Token(5),)))
    assert head.receive(FIRST, early(0, 1, 6)) == []
    assert head.receive(FIRST, early(1, second.rows[0].node, 6)) == []
    assert head.receive(FIRST, early(99, 5, 6)) == []


def test_a_request_with_another_drafter_ignores_exits() -> None:
    assert Head("none").receive(FIRST, early(0, 1, 7)) == []


def tokens_per_s(num_stages: int, acceptance_rates: dict[Actor, float], strategy: str, drafter: str) -> float:
    """Return the speed in virtual time, after comparing the text."""
    prompt = (Token(1), Token(2), Token(3))
    answer = reference(prompt, TOKENS, num_stages, VOCABULARY)
    cluster = VirtualCluster(
        HeadCore(HeadConfig(num_stages, None, context=1000, sequences=4), PRESETS, {}),
        [
            StageCore(Actor(index), num_stages, 1000, has_exit=index in acceptance_rates)
            for index in range(1, num_stages + 1)
        ],
        None,
        Modelled(stage_s=(0.01,) * num_stages, link_s=1e-4),
        ToyTarget(num_stages, VOCABULARY, ScriptedExits([[*prompt, *answer]], acceptance_rates, VOCABULARY)),
    )
    cluster.at(0.0, Submitted(RequestId(0), prompt, TOKENS, frozenset(), Sampling(), strategy, drafter))
    cluster.run()
    cluster.check_drained()
    assert cluster.answers[0].tokens == answer
    times = cluster.answers[0].times
    return (TOKENS - 1) / (times[-1] - times[0])


@pytest.mark.parametrize(("num_stages", "stage"), [(2, 1), (4, 1), (4, 2), (4, 3), (8, 2)])
@pytest.mark.parametrize("acceptance_rate", [0.5, 0.8, 0.94])
def test_an_exit_reaches_its_law(num_stages: int, stage: int, acceptance_rate: float) -> None:
    plain = tokens_per_s(num_stages, {}, "plain", "none")
    speedup = tokens_per_s(num_stages, {Actor(stage): acceptance_rate}, "speed", "exit") / plain
    assert speedup >= 0.9 * exit_speedup(acceptance_rate, stage / num_stages)


def test_an_exit_that_is_never_right_costs_next_to_nothing() -> None:
    plain = tokens_per_s(4, {}, "plain", "none")
    assert tokens_per_s(4, {FIRST: 0.0}, "speed", "exit") >= 0.9 * plain


def test_a_second_exit_pays_where_the_first_is_often_wrong() -> None:
    alone = tokens_per_s(8, {FIRST: 0.5}, "speed", "exit")
    assert tokens_per_s(8, {FIRST: 0.5, Actor(3): 0.95}, "speed", "exit") > 1.2 * alone
