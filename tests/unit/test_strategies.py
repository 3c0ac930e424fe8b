"""What each strategy dispatches next."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from mpispec.core.config import HeadConfig
from mpispec.core.experience import Experience
from mpispec.core.ids import NodeId, Pos, RunId, Token
from mpispec.core.traits import BackendTraits
from mpispec.core.tree import BY_DRAFT, BY_HEAD, Node, TokenTree
from mpispec.strategies.auto import Auto
from mpispec.strategies.pipeinfer import PipeInfer
from mpispec.strategies.pipespec import PipeSpec
from mpispec.strategies.plain import Plain
from mpispec.strategies.specpipe import SpecPipe
from mpispec.strategies.speed import Speed
from mpispec.strategies.sync import Sync, SyncTree

pytestmark = pytest.mark.unit


@dataclass
class Situation:
    """A `View` made by hand."""

    tree: TokenTree = field(default_factory=lambda: TokenTree(NodeId(0), Token(0), Pos(0)))
    experience: Experience = field(default_factory=Experience)
    load: int = 1
    live_runs: int = 0
    is_first_idle: bool = True
    may_branch: bool = True
    may_gather: bool = True
    is_awaiting_draft: bool = False
    is_drafted: bool = False
    crowd: float = 1.0
    draft_toll: float = 0.0
    num_stages: int = 4
    expensive_rows: bool = True
    draft_step: float = 1.0
    draft_pair: float = 1.0

    @property
    def config(self) -> HeadConfig:
        return HeadConfig(
            self.num_stages,
            None,
            context=64,
            sequences=4,
            draft_step=self.draft_step,
            draft_pair=self.draft_pair,
            crowd=self.crowd,
            draft_toll=self.draft_toll,
            traits=BackendTraits(may_gather=self.may_gather, may_branch=self.may_branch),
        )

    def cost(self, num_rows: int) -> float:
        return float(num_rows) if self.expensive_rows else 1.0

    def passing(self, num_rows: int) -> float:
        return self.num_stages * self.cost(num_rows)

    def chain(self, *probs: float) -> list[Node]:
        nodes = [self.tree.root]
        for index, prob in enumerate(probs):
            nodes.append(self.tree.add(nodes[-1], Token(index), prob))
        return nodes


def test_plain_dispatches_the_root_once() -> None:
    situation = Situation()
    assert Plain().choose(situation) == [situation.tree.root]
    situation.tree.dispatch(situation.tree.root, RunId(0))
    assert Plain().choose(situation) == []


def test_sync_waits_for_a_whole_chain_while_the_draft_works() -> None:
    situation = Situation(is_awaiting_draft=True)
    situation.chain(0.9)
    assert Sync(gamma=2).choose(situation) == []
    nodes = situation.chain(0.9, 0.9)
    assert Sync(gamma=2).choose(situation) == nodes


def test_sync_takes_what_there_is_and_nothing_while_a_run_is_in_flight() -> None:
    situation = Situation()
    nodes = situation.chain(0.9)
    assert Sync(gamma=4).choose(situation) == nodes
    situation.live_runs = 1
    assert Sync(gamma=4).choose(situation) == []


def test_a_synchronous_tree_is_dispatched_whole_and_parents_first() -> None:
    situation = Situation(is_awaiting_draft=True)
    root = situation.tree.root
    likely, other = situation.tree.add(root, Token(1), 0.7), situation.tree.add(root, Token(2), 0.2)
    below, sibling = situation.tree.add(likely, Token(3), 0.9), situation.tree.add(likely, Token(4), 0.05)
    assert SyncTree().choose(situation) == []
    situation.is_awaiting_draft = False
    assert SyncTree().choose(situation) == [root, likely, other, below, sibling]
    assert SyncTree(most_rows=4).choose(situation) == [root, likely, other, below]
    situation.live_runs = 1
    assert SyncTree().choose(situation) == []


def test_sync_ends_the_chain_at_an_unsure_draft_token() -> None:
    situation = Situation(is_awaiting_draft=True)
    nodes = situation.chain(0.9, 0.1, 0.9)
    assert Sync(gamma=4, p_min=0.5).choose(situation) == nodes[:2]


def test_pipeinfer_dispatches_the_newest_token_alone_then_micro_batches() -> None:
    situation = Situation()
    nodes = situation.chain(0.9, 0.8, 0.7)
    strategy = PipeInfer(micro_batch=2)
    assert strategy.choose(situation) == nodes[:1]
    situation.tree.dispatch(nodes[0], RunId(0))
    assert strategy.choose(situation) == nodes[1:3]
    situation.tree.dispatch(nodes[1], RunId(0))
    situation.tree.dispatch(nodes[2], RunId(0))
    assert strategy.choose(situation) == nodes[3:]


def test_pipeinfer_recovery_makes_further_runs_harder_and_an_accepted_token_resets_it() -> None:
    situation = Situation()
    nodes = situation.chain(0.5, 0.5)
    situation.tree.dispatch(nodes[0], RunId(0))
    strategy = PipeInfer(p_accept=0.3, p_recovery=0.4)
    assert strategy.choose(situation) == nodes[1:2]
    situation.tree.dispatch(nodes[1], RunId(0))
    assert strategy.choose(situation) == []
    strategy.accepted(1)
    assert strategy.choose(situation) == nodes[2:]


def test_pipeinfer_decay_lowers_the_cutoff_with_every_refusal() -> None:
    situation = Situation()
    nodes = situation.chain(0.25)
    situation.tree.dispatch(nodes[0], RunId(0))
    strategy = PipeInfer(p_accept=0.5, p_decay=0.1)
    assert [strategy.choose(situation) for _ in range(3)] == [[], [], []]
    assert strategy.choose(situation) == nodes[1:]


def test_speed_dispatches_each_draft_token_alone_and_at_once() -> None:
    situation = Situation()
    nodes = situation.chain(0.05, 0.9)
    for node in nodes:
        assert Speed().choose(situation) == [node]
        situation.tree.dispatch(node, RunId(0))
    assert Speed().choose(situation) == []


def test_speed_may_leave_out_unlikely_draft_tokens() -> None:
    situation = Situation()
    nodes = situation.chain(0.4)
    situation.tree.dispatch(nodes[0], RunId(0))
    assert Speed(p_accept=0.5).choose(situation) == []
    assert Speed(p_accept=0.4).choose(situation) == nodes[1:]


def _siblings(situation: Situation, *probs: float) -> list[Node]:
    situation.tree.dispatch(situation.tree.root, RunId(0))
    return [situation.tree.add(situation.tree.root, Token(index), prob) for index, prob in enumerate(probs)]


def test_specpipe_dispatches_a_layer_at_a_time() -> None:
    situation = Situation()
    first, second, third = _siblings(situation, 0.5, 0.3, 0.1)
    below = situation.tree.add(first, Token(9), 0.9)
    assert SpecPipe(width=2).choose(situation) == [first, second]
    situation.tree.dispatch(first, RunId(0))
    situation.tree.dispatch(second, RunId(0))
    assert SpecPipe(width=2).choose(situation) == [below]
    situation.tree.dispatch(below, RunId(0))
    assert SpecPipe(width=2).choose(situation) == [third]


def _begun(situation: Situation) -> Auto:
    strategy = Auto()
    strategy.begin(situation)
    return strategy


def test_chains_stay_chains_where_a_better_draft_token_comes_too_late() -> None:
    for strategy in (PipeInfer(), Speed(), PipeSpec()):
        situation = Situation()
        dispatched, better = _siblings(situation, 0.5, 0.9)
        situation.tree.dispatch(dispatched, RunId(1))
        below = situation.tree.add(dispatched, Token(9), 0.9)
        assert strategy.choose(situation) == [below]
        assert better in situation.tree.ready()


def test_auto_is_as_wide_as_rows_are_cheap() -> None:
    situation = Situation(expensive_rows=True)
    nodes = _siblings(situation, 0.55, 0.25, 0.15)
    assert _begun(situation).choose(situation) == nodes[:1]
    situation.expensive_rows = False
    assert _begun(situation).choose(situation) == nodes


@pytest.mark.parametrize(("num_stages", "draft_step", "width"), [(4, 1.0, 1), (14, 1.0, 4), (4, 0.6, 1), (4, 0.4, 4)])
def test_auto_asks_a_draft_with_expensive_rows_for_a_tree_where_rejections_cost_more_or_it_has_the_time(
    num_stages: int, draft_step: float, width: int
) -> None:
    situation = Situation(expensive_rows=False, draft_step=draft_step, draft_pair=2.0, num_stages=num_stages)
    assert _begun(situation).width == width


def test_auto_keeps_to_a_chain_where_a_tree_might_change_the_text() -> None:
    situation = Situation(expensive_rows=False, num_stages=14, may_branch=False)
    nodes = _siblings(situation, 0.55, 0.4)
    strategy = _begun(situation)
    assert strategy.width == 1
    assert strategy.choose(situation) == nodes[:1]
    situation.tree.dispatch(nodes[0], RunId(1))
    assert strategy.choose(situation) == []


def test_auto_dispatches_row_by_row_where_larger_runs_might_change_the_text() -> None:
    situation = Situation(expensive_rows=False, may_gather=False)
    nodes = situation.chain(0.95, 0.95, 0.95)
    situation.tree.dispatch(nodes[0], RunId(0))
    situation.is_first_idle = False
    assert _begun(situation).choose(situation) == nodes[1:2]


def test_auto_hangs_a_chain_below_the_likeliest_of_a_layer() -> None:
    situation = Situation(expensive_rows=False, num_stages=2)
    situation.cost = lambda num_rows: max(1.0, num_rows / 8)  # type: ignore[method-assign]
    nodes = _siblings(situation, 0.75, 0.2)
    below = situation.tree.add(nodes[0], Token(9), 0.95)
    assert _begun(situation).choose(situation) == [*nodes, below]


@pytest.mark.parametrize(
    ("promise", "first_rows", "is_right", "later_rows"),
    [(0.95, 32, True, 32), (0.95, 32, False, 0), (0.5, 1, True, 32)],
)
def test_auto_gathers_runs_where_many_rows_cost_little_more_than_two_and_acceptance_is_high(
    promise: float, first_rows: int, is_right: bool, later_rows: int
) -> None:
    situation = Situation(expensive_rows=True, num_stages=2)
    situation.cost = lambda num_rows: 1.0 if num_rows == 1 else 3.5  # type: ignore[method-assign]
    nodes = situation.chain(*[promise] * 32)
    situation.tree.dispatch(nodes[0], RunId(0))
    strategy = _begun(situation)
    assert strategy.choose(situation) == nodes[1 : 1 + first_rows], "what it promises is believed at first"
    for _ in range(200):
        strategy.verified(situation.tree.root, nodes[1].token if is_right else Token(-1))
    strategy.accepted(1)
    assert strategy.choose(situation) == nodes[1 : 1 + later_rows]


def test_auto_fills_a_run_with_what_else_is_likely_enough_where_rows_are_free() -> None:
    situation = Situation(expensive_rows=False)
    likely, unlikely, dispatched = _siblings(situation, 0.8, 0.1, 0.003)
    situation.tree.dispatch(likely, RunId(0))
    situation.tree.dispatch(dispatched, RunId(1))
    situation.tree.add(dispatched, Token(9), 0.003)
    below = situation.tree.add(likely, Token(9), 0.95)
    assert _begun(situation).choose(situation) == [below, unlikely]


def test_auto_dispatches_a_chain_as_one_run_where_rows_are_cheap_and_lets_it_grow_while_the_first_stage_works() -> None:
    situation = Situation(expensive_rows=False)
    nodes = situation.chain(0.95, 0.95, 0.95)
    situation.tree.dispatch(nodes[0], RunId(0))
    situation.is_first_idle = False
    assert _begun(situation).choose(situation) == []
    situation.is_first_idle = True
    assert _begun(situation).choose(situation) == nodes[1:]


def _taught(situation: Situation, draft: float, head: float) -> Auto:
    """Return a strategy that has seen how often the draft and the head were right at a confidence of 0.7."""
    strategy = _begun(situation)
    for index in range(200):
        tree = TokenTree(NodeId(0), Token(0), Pos(0))
        tree.add(tree.root, Token(1), 0.7, BY_DRAFT)
        tree.add(tree.root, Token(2), 0.7, BY_HEAD)
        draw = index * 37 % 100 / 100
        strategy.verified(tree.root, Token(1 if draw < draft else 2 if draw < draft + head else 3))
    return strategy


@pytest.mark.parametrize(("draft", "head"), [(0.6, 0.2), (0.1, 0.8)])
def test_auto_takes_the_token_of_the_drafter_that_was_right_where_a_tree_must_stay_a_chain(
    draft: float, head: float
) -> None:
    situation = Situation(may_branch=False, num_stages=2)
    strategy = _taught(situation, draft, head)
    situation.tree.dispatch(situation.tree.root, RunId(0))
    draft_token = situation.tree.add(situation.tree.root, Token(1), 0.7, BY_DRAFT)
    alternative = situation.tree.add(situation.tree.root, Token(2), 0.7, BY_HEAD)
    end = alternative
    for _ in range(4):
        end = situation.tree.add(end, Token(2), 0.7, BY_HEAD)
    assert strategy.choose(situation) == [draft_token if draft > head else alternative]


def test_auto_does_not_take_a_surer_draft_token_below_which_nobody_goes_on() -> None:
    situation = Situation(may_branch=False, num_stages=8)
    strategy = _taught(situation, 0.3, 0.6)
    situation.tree.dispatch(situation.tree.root, RunId(0))
    draft_token = situation.tree.add(situation.tree.root, Token(1), 0.7, BY_DRAFT)
    situation.tree.add(situation.tree.root, Token(2), 0.7, BY_HEAD)
    assert strategy.choose(situation) == [draft_token]


def test_auto_looks_again_at_what_rows_cost() -> None:
    situation = Situation(expensive_rows=True)
    nodes = situation.chain(0.95, 0.95, 0.95)
    situation.tree.dispatch(nodes[0], RunId(0))
    strategy = _begun(situation)
    situation.expensive_rows = False
    assert strategy.choose(situation) == nodes[1:2]
    strategy.verified(situation.tree.root, nodes[1].token)
    strategy.accepted(64)
    assert strategy.choose(situation) == nodes[1:]


@pytest.mark.parametrize(("num_stages", "pays"), [(4, False), (14, True)])
def test_auto_dispatches_an_alternative_where_it_saves_more_runs_than_it_takes(num_stages: int, pays: bool) -> None:
    situation = Situation(num_stages=num_stages)
    first, second = _siblings(situation, 0.65, 0.25)
    situation.tree.dispatch(first, RunId(1))
    assert _begun(situation).choose(situation) == ([second] if pays else [])


def test_auto_stops_asking_a_drafter_that_is_always_wrong_and_tries_again_later() -> None:
    situation = Situation()
    strategy = _begun(situation)
    (draft_token,) = _siblings(situation, 0.95)
    assert strategy.choose(situation) == [draft_token]
    for _ in range(200):
        strategy.verified(situation.tree.root, Token(77))
    assert strategy.choose(situation) == []
    strategy.accepted(100)
    assert strategy.choose(situation) == [draft_token]


def test_auto_asks_a_draft_that_is_always_wrong_for_one_position_until_it_is_right_again() -> None:
    situation = Situation()
    strategy = _begun(situation)
    draft_token = situation.tree.add(situation.tree.root, Token(1), 0.95, BY_DRAFT)
    longest = strategy.lead
    for right, lead in ((False, 1), (True, longest)):
        for _ in range(50):
            strategy.verified(situation.tree.root, draft_token.token if right else Token(77))
        assert strategy.lead == lead


def test_auto_lets_the_head_draft_ahead_even_where_it_is_always_wrong() -> None:
    situation = Situation()
    strategy = _begun(situation)
    situation.tree.add(situation.tree.root, Token(1), 0.95, BY_HEAD)
    for _ in range(50):
        strategy.verified(situation.tree.root, Token(77))
    assert strategy.lead > 1


def test_auto_among_others_keeps_to_one_row_a_run_where_more_have_other_bits() -> None:
    for may_gather, most in ((True, 4), (False, 1)):
        situation = Situation(load=2, may_gather=may_gather, expensive_rows=False)
        situation.chain(0.9, 0.9, 0.9)
        strategy = Auto()
        strategy.begin(situation)
        assert len(strategy.choose(situation)) == most
