"""A predictor next to a draft: what it adds to the tree, and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from mpispec.core.ids import NodeId, Pos, RunId, Token
from mpispec.core.strategy import Bounds
from mpispec.core.tree import BY_DRAFT, BY_HEAD, Node, NodeState, TokenTree
from mpispec.drafters.mixed import Mixed

pytestmark = pytest.mark.unit

DraftTokens = Mapping[tuple[int, ...], tuple[int, float]]


class Known:
    """Draft tokens from a table of paths."""

    def __init__(self, draft_tokens: DraftTokens) -> None:
        self._draft_tokens = draft_tokens
        self.asked: list[tuple[int, ...]] = []

    def begin(self, tokens: Sequence[int]) -> None:
        """See `Predictor`."""

    def observe(self) -> None:
        """See `Predictor`."""

    def predict(self, path: Sequence[int], width: int) -> list[tuple[int, float]]:
        self.asked.append(tuple(path))
        return [self._draft_tokens[tuple(path)]] if tuple(path) in self._draft_tokens else []


class Scene:
    """A tree whose root is dispatched, and a drafter that knows `draft_tokens`."""

    def __init__(self, draft_tokens: DraftTokens, farthest: int = 40, stops: frozenset[Token] = frozenset()) -> None:
        self.predictor = Known(draft_tokens)
        self.mixed = Mixed(self.predictor)
        self.tree = TokenTree(NodeId(9), Token(100), Pos(9))
        self.tree.dispatch(self.tree.root, RunId(0))
        self._farthest, self._stops = farthest, stops

    def grow(self) -> None:
        self.mixed.grow(self.tree, Bounds(self._farthest), self._stops)

    def let_draft(self, parent: Node, token: int, prob: float = 0.8) -> Node:
        """Add a draft token of the draft, then let the head draft."""
        node = self.tree.add(parent, Token(token), prob, BY_DRAFT)
        self.mixed.also_drafted(node)
        self.grow()
        return node

    def accept(self, token: int) -> None:
        self.tree.advance(Token(token))
        self.mixed.accepted(self.tree.root)
        self.grow()

    @property
    def draft_tokens(self) -> list[tuple[int, int]]:
        """Token and drafters of every node below the root, parents first."""
        return [(node.token, node.drafters) for node in self.tree.root.subtree()][1:]


def test_a_prediction_that_is_no_surer_than_the_draft_waits_for_its_token_and_becomes_a_sibling() -> None:
    scene = Scene({(): (7, 0.6)})
    scene.grow()
    assert scene.draft_tokens == []
    scene.let_draft(scene.tree.root, 5)
    assert scene.draft_tokens == [(5, BY_DRAFT), (7, BY_HEAD)]


def test_a_prediction_that_equals_the_draft_token_confirms_it() -> None:
    scene = Scene({(): (5, 0.6)})
    scene.grow()
    node = scene.let_draft(scene.tree.root, 5, prob=0.5)
    assert scene.draft_tokens == [(5, BY_DRAFT | BY_HEAD)]
    assert node.prob == node.path_prob == 0.6


def test_a_surer_prediction_waits_while_the_draft_is_ahead_of_what_is_dispatched() -> None:
    scene = Scene({(5,): (7, 0.97)})
    node = scene.let_draft(scene.tree.root, 5)
    assert scene.draft_tokens == [(5, BY_DRAFT)]
    scene.tree.dispatch(node, RunId(1))
    scene.grow()
    assert scene.draft_tokens == [(5, BY_DRAFT), (7, BY_HEAD)]


def test_a_surer_prediction_is_added_at_once_with_all_that_is_sure_below_it() -> None:
    scene = Scene({(): (7, 0.97), (7,): (8, 0.97), (7, 8): (9, 0.5)})
    scene.grow()
    assert scene.draft_tokens == [(7, BY_HEAD), (8, BY_HEAD)]
    node = scene.let_draft(scene.tree.root, 7)
    scene.let_draft(node, 8)
    assert scene.draft_tokens == [(7, BY_DRAFT | BY_HEAD), (8, BY_DRAFT | BY_HEAD)]
    scene.let_draft(node.children[0], 9)
    assert scene.draft_tokens[2:] == [(9, BY_DRAFT | BY_HEAD)]


def test_below_an_alternative_the_predictor_goes_on_alone_until_the_path_is_unlikely() -> None:
    path = [7, 8, 9, 10, 11, 12]
    scene = Scene({tuple(path[:index]): (token, 0.5) for index, token in enumerate(path)})
    scene.grow()
    scene.let_draft(scene.tree.root, 5)
    assert [token for token, drafters in scene.draft_tokens if drafters == BY_HEAD] == [7, 8, 9, 10, 11]


def test_an_accepted_alternative_that_was_not_dispatched_leaves_the_next_position_to_the_draft() -> None:
    scene = Scene({(): (7, 0.5), (7,): (8, 0.5)})
    scene.grow()
    scene.let_draft(scene.tree.root, 5)
    below = scene.tree.root.children[1].children[0]
    scene.accept(7)
    assert scene.draft_tokens == []
    assert below.state is NodeState.DEAD


def test_an_alternative_in_flight_keeps_what_is_below_it() -> None:
    scene = Scene({(): (7, 0.5), (7,): (8, 0.5)})
    scene.grow()
    scene.let_draft(scene.tree.root, 5)
    scene.tree.dispatch(scene.tree.root.children[1], RunId(1))
    scene.accept(7)
    assert scene.draft_tokens == [(8, BY_HEAD)]


def test_a_chain_goes_on_from_where_the_farthest_position_has_ended_it() -> None:
    scene = Scene({(): (7, 0.97), (7,): (8, 0.97), (8,): (9, 0.97)}, farthest=11)
    scene.grow()
    assert len(scene.draft_tokens) == 2
    scene.tree.dispatch(scene.tree.root.children[0], RunId(1))
    scene._farthest = 12
    scene.accept(7)
    assert [token for token, _ in scene.draft_tokens] == [8, 9]


def test_nothing_follows_a_stop() -> None:
    scene = Scene({(): (7, 0.97), (7,): (8, 0.97)}, stops=frozenset({Token(7)}))
    scene.grow()
    assert [token for token, _ in scene.draft_tokens] == [7]


def test_each_node_is_asked_about_once_and_a_dead_one_never() -> None:
    scene = Scene({})
    node = scene.let_draft(scene.tree.root, 5)
    wrong = scene.tree.add(node, Token(6), 0.5, BY_DRAFT)
    for _ in range(3):
        scene.grow()
    assert scene.predictor.asked == [(), (5,)]
    scene.mixed.also_drafted(wrong)
    scene.tree.dispatch(node, RunId(1))
    scene.tree.advance(Token(5))
    scene.accept(1)
    assert scene.predictor.asked[2:] == [()]


def test_a_draft_that_is_often_late_or_wrong_is_not_waited_for() -> None:
    scene = Scene({(): (7, 0.6)}, farthest=100)
    for _ in range(60):
        scene.accept(1)
    scene.tree.dispatch(scene.tree.root, RunId(1))
    scene.grow()
    assert scene.draft_tokens == [(7, BY_HEAD)]
