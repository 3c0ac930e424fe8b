"""What `auto` makes of other requests: how far it speculates, in which runs, and what it believes of draft tokens."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from mpispec.core.config import HeadConfig
from mpispec.core.experience import Experience
from mpispec.core.ids import NodeId, Pos, Token
from mpispec.core.traits import BackendTraits
from mpispec.core.tree import BY_DRAFT, Node, TokenTree
from mpispec.sim.costs import ROWS_FACTORS
from mpispec.strategies.auto import Auto
from mpispec.strategies.beliefs import Beliefs
from mpispec.strategies.crowd import Crowd, Depth

pytestmark = pytest.mark.unit


@dataclass
class Pipeline:
    """A `View` of a request among others."""

    rows: str
    num_stages: int
    load: int
    is_awaiting_draft: bool = False
    is_drafted: bool = True
    is_first_idle: bool = True
    live_runs: int = 0
    experience: Experience = field(default_factory=Experience)

    def __post_init__(self) -> None:
        factors = ROWS_FACTORS[self.rows]
        pair = factors[1] if len(factors) > 1 else 1.0
        traits = BackendTraits(may_gather=True, may_branch=True)
        self.config = HeadConfig(
            self.num_stages, None, 4096, 64, rows_cost=factors, draft_step=0.1, draft_pair=pair, traits=traits
        )
        self.tree = TokenTree(NodeId(0), Token(0), Pos(0))

    def cost(self, num_rows: int) -> float:
        return self.config.cost(num_rows)

    def passing(self, num_rows: int) -> float:
        return self.config.passing(num_rows)

    def chain(self, prob: float, length: int) -> list[Node]:
        nodes = [self.tree.root]
        for index in range(length):
            nodes.append(self.tree.add(nodes[-1], Token(index), prob, BY_DRAFT))
        return nodes


def planned(rows: str, num_stages: int, load: int, acceptance: float) -> tuple[Crowd, Depth]:
    view = Pipeline(rows, num_stages, load)
    crowd = Crowd(view, most_rows=32)
    crowd.usual.promise(acceptance)
    return crowd, crowd.depth(view)


def test_as_many_requests_as_stages_each_wait_for_a_long_chain_where_long_runs_cost_no_more_than_short_ones() -> None:
    _, depth = planned("gpu4", 8, 8, 0.85)
    assert depth.plan.waits
    assert depth.plan.together == 1
    assert 15 <= depth.tokens <= 23


def test_two_requests_flow_in_single_rows_where_two_rows_cost_three_times_as_much_as_one() -> None:
    _, depth = planned("gpu4", 4, 2, 0.85)
    assert (depth.plan.waits, depth.plan.size) == (False, 1)


def test_with_many_requests_nothing_is_drafted_where_a_row_costs_more_than_it_brings() -> None:
    _, depth = planned("cpu8", 4, 32, 0.5)
    assert (depth.plan.waits, depth.tokens) == (True, 0)


def test_free_rows_are_weighed_only_where_runs_have_too_little_room_for_all() -> None:
    assert not planned("flat", 8, 32, 0.5)[1].plan.waits
    assert planned("flat", 4, 32, 0.5)[1].plan.waits


def test_runs_that_wait_for_each_other_carry_about_equally_many_requests() -> None:
    for load in range(2, 40):
        for acceptance in (0.3, 0.5, 0.55, 0.8):
            _, depth = planned("flat", 4, load, acceptance)
            runs = -(-load // depth.plan.together)
            assert load > runs * (depth.plan.together - 1)


def test_rows_that_cost_nothing_more_go_whatever_their_chance_and_dear_ones_stay_behind() -> None:
    crowd, depth = planned("gpu4", 8, 8, 0.85)
    assert crowd.prefix(depth, 8, [0.5] * depth.tokens) >= 8  # nine rows cost as much as two
    crowd, depth = planned("cpu8", 8, 8, 0.85)
    assert crowd.prefix(depth, 8, [0.85, 0.85]) == depth.tokens == 2
    assert crowd.prefix(depth, 8, [0.85, 0.1]) == 1
    assert crowd.prefix(depth, 8, [0.1, 0.1]) == 0


def test_one_wrong_draft_token_is_much_evidence_for_a_request_alone_and_little_among_others() -> None:
    view = Pipeline("flat", 4, 8)
    beliefs = Beliefs(view.experience)
    _, node = view.chain(0.85, 1)
    beliefs.learn(view.tree.root, Token(77))
    beliefs.begin(view.tree.root)
    assert beliefs.chance(node) < 0.5
    beliefs.begin(view.tree.root, among_others=True)
    assert beliefs.chance(node) > 0.6


def test_a_chain_is_waited_for_as_long_as_the_draft_goes_on_and_no_further_than_pays() -> None:
    view = Pipeline("gpu4", 8, 8)
    auto = Auto()
    auto.begin(view)
    chain = view.chain(0.85, 6)
    view.is_awaiting_draft = True
    assert auto.choose(view) == []
    assert auto.draft_lead == planned("gpu4", 8, 8, 0.85)[1].tokens
    view.is_awaiting_draft = False
    assert auto.choose(view) == chain
