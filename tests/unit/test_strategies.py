"""What each strategy launches next."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from mpispec.core.ids import NodeId, Pos, Token
from mpispec.core.tree import Node, NodeState, TokenTree
from mpispec.strategies.pipeinfer import PipeInfer
from mpispec.strategies.plain import Plain
from mpispec.strategies.sync import Sync

pytestmark = pytest.mark.unit


@dataclass
class Situation:
    """A `View` made by hand."""

    tree: TokenTree = field(default_factory=lambda: TokenTree(NodeId(0), Token(0), Pos(0)))
    live_runs: int = 0
    is_awaiting_draft: bool = False

    def chain(self, *probs: float) -> list[Node]:
        nodes = [self.tree.root]
        for index, prob in enumerate(probs):
            nodes.append(self.tree.add(nodes[-1], Token(index), prob))
        return nodes


def test_plain_launches_the_root_once() -> None:
    situation = Situation()
    assert Plain().choose(situation) == [situation.tree.root]
    situation.tree.root.state = NodeState.LAUNCHED
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


def test_sync_ends_the_chain_at_an_unsure_guess() -> None:
    situation = Situation(is_awaiting_draft=True)
    nodes = situation.chain(0.9, 0.1, 0.9)
    assert Sync(gamma=4, p_min=0.5).choose(situation) == nodes[:2]


def test_pipeinfer_launches_the_newest_token_alone_then_micro_batches() -> None:
    situation = Situation()
    nodes = situation.chain(0.9, 0.8, 0.7)
    strategy = PipeInfer(micro_batch=2)
    assert strategy.choose(situation) == nodes[:1]
    nodes[0].state = NodeState.LAUNCHED
    assert strategy.choose(situation) == nodes[1:3]
    nodes[1].state = nodes[2].state = NodeState.LAUNCHED
    assert strategy.choose(situation) == nodes[3:]


def test_pipeinfer_recovery_makes_further_runs_harder_and_an_acceptance_resets_it() -> None:
    situation = Situation()
    nodes = situation.chain(0.5, 0.5)
    nodes[0].state = NodeState.LAUNCHED
    strategy = PipeInfer(p_accept=0.3, p_recovery=0.4)
    assert strategy.choose(situation) == nodes[1:2]
    nodes[1].state = NodeState.LAUNCHED
    assert strategy.choose(situation) == []
    strategy.accepted(1)
    assert strategy.choose(situation) == nodes[2:]


def test_pipeinfer_decay_lowers_the_cutoff_with_every_refusal() -> None:
    situation = Situation()
    nodes = situation.chain(0.25)
    nodes[0].state = NodeState.LAUNCHED
    strategy = PipeInfer(p_accept=0.5, p_decay=0.1)
    assert [strategy.choose(situation) for _ in range(3)] == [[], [], []]
    assert strategy.choose(situation) == nodes[1:]
