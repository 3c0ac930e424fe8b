"""A draft that hangs costs a strategy that waits for it a deadline, one whose context ends nothing (law 7)."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from mpispec.core.config import HeadConfig
from mpispec.core.drafting import DraftLink
from mpispec.core.events import Tick
from mpispec.core.ids import Actor, NodeId, Pos, RequestId, Token
from mpispec.core.messages import ROOT, Draft, Sampling
from mpispec.core.tree import TokenTree
from mpispec.strategies import PRESETS
from tests.protocol.playing import finish
from tests.protocol.scenario import build, draw
from tests.protocol.toys import Chaos

pytestmark = pytest.mark.protocol

DEADLINE_S = HeadConfig(1, None, 1, 1).deadline_s
SEEDS = 20


class HangingDraft(Chaos):
    """Random delays, but for a draft that takes for ever from one of its steps on."""

    def __init__(self, seed: int, steps_left: int) -> None:
        super().__init__(seed)
        self._steps_left = steps_left

    def draft(self, num_tokens: int) -> float:
        """See `Costs`."""
        self._steps_left -= 1
        return 1e9 if self._steps_left < 0 else super().draft(num_tokens)

    def abort(self) -> float | None:
        """See `Costs`: a draft that hangs does not abort either."""
        return None


@pytest.mark.parametrize("strategy", ["sync", "synctree"])
def test_an_answer_goes_on_without_a_draft_that_hangs(strategy: str) -> None:
    for seed in range(SEEDS):
        scenario = replace(draw(seed, drafters=["draft"]), strategy=strategy)
        cluster = build(scenario, HangingDraft(seed, steps_left=seed % 5))
        longest = (len(scenario.prompts) + 1) * DEADLINE_S
        for second in range(int(longest)):
            cluster.at(float(second), Tick())
        finish(scenario, cluster)
        assert max((answer.times[-1] for answer in cluster.answers.values() if answer.times), default=0.0) < longest


@pytest.mark.parametrize("strategy", [name for name in PRESETS if name != "plain"])
def test_an_answer_goes_on_where_the_drafts_context_ends(strategy: str) -> None:
    """In its midst, before it, or never; nobody waits for draft tokens that cannot come."""
    for seed in range(3 * SEEDS):
        scenario = replace(draw(seed, [strategy], ["draft", "draft+ngram"]), draft_context=1 + seed % 20)
        cluster = build(scenario)
        finish(scenario, cluster)
        last = max((answer.times[-1] for answer in cluster.answers.values() if answer.times), default=0.0)
        assert last < DEADLINE_S


def test_a_draft_is_waited_for_again_once_it_has_sent_draft_tokens() -> None:
    tree = TokenTree(NodeId(0), Token(5), Pos(0))
    link = DraftLink(Actor(2), RequestId(0), lead=4, width=1, floor=0.0, last=Pos(100), epochs=itertools.count())
    link.prime((Token(5),), Sampling(), tree.root)
    for now, is_due in ((0.0, True), (DEADLINE_S, True), (DEADLINE_S + 1, False)):
        link.look(tree, now, DEADLINE_S)
        assert link.is_due(tree) is is_due
    link.received(Draft(RequestId(0), Pos(0), 0, (ROOT,), (Token(6),), (0.5,)), tree, [Token(5)])
    for now, is_due in ((700.0, True), (700.0 + DEADLINE_S, True), (701.0 + DEADLINE_S, False)):
        link.look(tree, now, DEADLINE_S)
        assert link.is_due(tree) is is_due


def test_a_draft_that_has_drafted_up_to_its_limit_owes_nothing() -> None:
    tree = TokenTree(NodeId(0), Token(5), Pos(0))
    link = DraftLink(Actor(2), RequestId(0), lead=1, width=1, floor=0.0, last=Pos(100), epochs=itertools.count())
    link.prime((Token(5),), Sampling(), tree.root)
    link.received(Draft(RequestId(0), Pos(0), 0, (ROOT,), (Token(6),), (0.5,)), tree, [Token(5)])
    for now in (0.0, 2 * DEADLINE_S):
        link.look(tree, now, DEADLINE_S)
    tree.advance(Token(6))
    link.accepted([Token(6)], tree.root, lead=1)
    assert link.is_due(tree)
