"""Early exits as proposers: what the head makes of their guesses, and how fast a pipeline gets by them."""

from __future__ import annotations

import pytest

from mpispec.compute.toy import reference
from mpispec.core.config import HeadConfig
from mpispec.core.effects import Effect, Send
from mpispec.core.events import Received, Submitted
from mpispec.core.head import HeadCore
from mpispec.core.ids import Actor, NodeId, RequestId, RunId, Token
from mpispec.core.messages import Cancel, EarlyGuess, EditOp, Result, Run, Sampling
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

    def __init__(self, proposer: str = "exit") -> None:
        self.core = HeadCore(HeadConfig(3, None, context=64, sequences=4, first_queue=8), PRESETS, {})
        prompt = (Token(1), Token(2))
        self.sent = self.core.handle(
            Submitted(RequestId(0), prompt, 16, frozenset(), Sampling(), "speed", proposer), 0.0
        )

    def hear(self, src: Actor, message: EarlyGuess | Result) -> list[Effect]:
        """Deliver a message; return what the head does."""
        effects = self.core.handle(Received(src, message), 0.0)
        self.core.check()
        return effects


def runs(effects: list[Effect]) -> list[Run]:
    """Return the runs that were launched."""
    return [effect.message for effect in effects if isinstance(effect, Send) and isinstance(effect.message, Run)]


def cancelled(effects: list[Effect]) -> set[int]:
    """Return the runs that were cancelled."""
    sent = [effect.message for effect in effects if isinstance(effect, Send)]
    return {run for message in sent if isinstance(message, Cancel) for run in message.run_ids}


def early(run: int, node: int, token: int, prob: float = 0.9) -> EarlyGuess:
    """Make a guess after one row."""
    return EarlyGuess(RunId(run), (NodeId(node),), (Token(token),), (prob,))


def test_a_guess_is_launched_at_once_and_its_own_guess_follows() -> None:
    head = Head()
    (first,) = runs(head.sent)
    assert [row.token for row in first.rows] == [1, 2]
    (second,) = runs(head.hear(FIRST, early(0, 1, 7)))
    assert [(row.token, row.pos, row.parent) for row in second.rows] == [(7, 2, 1)]
    (third,) = runs(head.hear(FIRST, early(1, second.rows[0].node, 8)))
    assert [(row.token, row.pos) for row in third.rows] == [(8, 3)]


def test_a_deeper_exit_takes_a_guess_back_with_all_below_it() -> None:
    head = Head()
    (second,) = runs(head.hear(FIRST, early(0, 1, 7)))
    head.hear(FIRST, early(1, second.rows[0].node, 8))
    effects = head.hear(SECOND, early(0, 1, 9))
    assert cancelled(effects) == {1, 2}
    (instead,) = runs(effects)
    assert [(row.token, row.pos) for row in instead.rows] == [(9, 2)]
    assert [(edit.op, edit.start) for edit in instead.edits] == [(EditOp.DROP, 2)]


def test_a_deeper_exit_that_agrees_changes_nothing() -> None:
    head = Head()
    head.hear(FIRST, early(0, 1, 7))
    assert head.hear(SECOND, early(0, 1, 7)) == []


def test_a_shallower_exit_that_comes_late_is_not_believed() -> None:
    head = Head()
    head.hear(SECOND, early(0, 1, 9))
    assert head.hear(FIRST, early(0, 1, 7)) == []


def test_guesses_after_what_is_decided_dead_or_unknown_are_dropped() -> None:
    head = Head()
    (second,) = runs(head.hear(FIRST, early(0, 1, 7)))
    head.hear(LAST, Result(RunId(0), (NodeId(1),), (Token(5),)))
    assert head.hear(FIRST, early(0, 1, 6)) == []
    assert head.hear(FIRST, early(1, second.rows[0].node, 6)) == []
    assert head.hear(FIRST, early(99, 5, 6)) == []


def test_a_request_with_another_proposer_does_not_listen() -> None:
    assert Head("none").hear(FIRST, early(0, 1, 7)) == []


def tokens_per_s(num_stages: int, hit_rates: dict[Actor, float], strategy: str, proposer: str) -> float:
    """Return the speed in virtual time, after comparing the text."""
    prompt = (Token(1), Token(2), Token(3))
    answer = reference(prompt, TOKENS, num_stages, VOCABULARY)
    cluster = VirtualCluster(
        HeadCore(HeadConfig(num_stages, None, context=1000, sequences=4), PRESETS, {}),
        [StageCore(Actor(index), num_stages, 1000, has_exit=index in hit_rates) for index in range(1, num_stages + 1)],
        None,
        Modelled(stage_s=(0.01,) * num_stages, link_s=1e-4),
        ToyTarget(num_stages, VOCABULARY, ScriptedExits([[*prompt, *answer]], hit_rates, VOCABULARY)),
    )
    cluster.at(0.0, Submitted(RequestId(0), prompt, TOKENS, frozenset(), Sampling(), strategy, proposer))
    cluster.run()
    cluster.check_drained()
    assert cluster.answers[0].tokens == answer
    times = cluster.answers[0].times
    return (TOKENS - 1) / (times[-1] - times[0])


@pytest.mark.parametrize(("num_stages", "stage"), [(2, 1), (4, 1), (4, 2), (4, 3), (8, 2)])
@pytest.mark.parametrize("hit_rate", [0.5, 0.8, 0.94])
def test_an_exit_reaches_its_law(num_stages: int, stage: int, hit_rate: float) -> None:
    plain = tokens_per_s(num_stages, {}, "plain", "none")
    speedup = tokens_per_s(num_stages, {Actor(stage): hit_rate}, "speed", "exit") / plain
    assert speedup >= 0.9 * exit_speedup(hit_rate, stage / num_stages)


def test_an_exit_that_is_never_right_costs_next_to_nothing() -> None:
    plain = tokens_per_s(4, {}, "plain", "none")
    assert tokens_per_s(4, {FIRST: 0.0}, "speed", "exit") >= 0.9 * plain


def test_a_second_exit_pays_where_the_first_is_often_wrong() -> None:
    alone = tokens_per_s(8, {FIRST: 0.5}, "speed", "exit")
    assert tokens_per_s(8, {FIRST: 0.5, Actor(3): 0.95}, "speed", "exit") > 1.2 * alone
