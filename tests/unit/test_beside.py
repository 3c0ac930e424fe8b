"""A guesser beside a draft: what it adds to the tree, and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from mpispec.core.ids import NodeId, Pos, RunId, Token
from mpispec.core.tree import BY_DRAFT, BY_HEAD, Node, NodeState, TokenTree
from mpispec.proposers.beside import Beside

pytestmark = pytest.mark.unit

Guesses = Mapping[tuple[int, ...], tuple[int, float]]


class Known:
    """Guesses from a table of paths."""

    def __init__(self, guesses: Guesses) -> None:
        self._guesses = guesses
        self.asked: list[tuple[int, ...]] = []

    def begin(self, tokens: Sequence[int]) -> None:
        """See `Guesser`."""

    def observe(self) -> None:
        """See `Guesser`."""

    def guess(self, path: Sequence[int]) -> tuple[int, float] | None:
        self.asked.append(tuple(path))
        return self._guesses.get(tuple(path))


class Scene:
    """A tree whose root is launched, and a proposer that knows `guesses`."""

    def __init__(self, guesses: Guesses, farthest: int = 40, stops: frozenset[Token] = frozenset()) -> None:
        self.guesser = Known(guesses)
        self.beside = Beside(self.guesser)
        self.tree = TokenTree(NodeId(9), Token(100), Pos(9))
        self.tree.launch(self.tree.root, RunId(0))
        self._farthest, self._stops = farthest, stops

    def grow(self) -> None:
        self.beside.grow(self.tree, self._farthest, self._stops)

    def drafted(self, parent: Node, token: int, prob: float = 0.8) -> Node:
        """Let the draft guess, then the head."""
        node = self.tree.add(parent, Token(token), prob, BY_DRAFT)
        self.beside.met(node)
        self.grow()
        return node

    def accept(self, token: int) -> None:
        self.tree.advance(Token(token))
        self.beside.accepted(self.tree.root)
        self.grow()

    @property
    def guessed(self) -> list[tuple[int, int]]:
        """Token and guessers of all guesses, parents first."""
        return [(node.token, node.guessers) for node in self.tree.root.subtree()][1:]


def test_a_guess_that_is_no_surer_than_the_drafts_waits_for_it_and_stands_beside_it() -> None:
    scene = Scene({(): (7, 0.6)})
    scene.grow()
    assert scene.guessed == []
    scene.drafted(scene.tree.root, 5)
    assert scene.guessed == [(5, BY_DRAFT), (7, BY_HEAD)]


def test_a_guess_that_the_draft_shares_confirms_it() -> None:
    scene = Scene({(): (5, 0.6)})
    scene.grow()
    node = scene.drafted(scene.tree.root, 5, prob=0.5)
    assert scene.guessed == [(5, BY_DRAFT | BY_HEAD)]
    assert node.prob == node.reach == 0.6


def test_a_surer_guess_waits_while_the_draft_is_ahead_of_what_is_launched() -> None:
    scene = Scene({(5,): (7, 0.97)})
    node = scene.drafted(scene.tree.root, 5)
    assert scene.guessed == [(5, BY_DRAFT)]
    scene.tree.launch(node, RunId(1))
    scene.grow()
    assert scene.guessed == [(5, BY_DRAFT), (7, BY_HEAD)]


def test_a_surer_guess_is_there_at_once_with_all_that_is_sure_below_it() -> None:
    scene = Scene({(): (7, 0.97), (7,): (8, 0.97), (7, 8): (9, 0.5)})
    scene.grow()
    assert scene.guessed == [(7, BY_HEAD), (8, BY_HEAD)]
    node = scene.drafted(scene.tree.root, 7)
    scene.drafted(node, 8)
    assert scene.guessed == [(7, BY_DRAFT | BY_HEAD), (8, BY_DRAFT | BY_HEAD)]
    scene.drafted(node.children[0], 9)
    assert scene.guessed[2:] == [(9, BY_DRAFT | BY_HEAD)]


def test_below_an_alternative_it_goes_on_alone_until_hardly_anything_is_left() -> None:
    path = [7, 8, 9, 10, 11, 12]
    scene = Scene({tuple(path[:index]): (token, 0.5) for index, token in enumerate(path)})
    scene.grow()
    scene.drafted(scene.tree.root, 5)
    assert [token for token, guessers in scene.guessed if guessers == BY_HEAD] == [7, 8, 9, 10, 11]


def test_an_alternative_that_was_right_and_not_launched_leaves_the_next_guess_to_the_draft() -> None:
    scene = Scene({(): (7, 0.5), (7,): (8, 0.5)})
    scene.grow()
    scene.drafted(scene.tree.root, 5)
    below = scene.tree.root.children[1].children[0]
    scene.accept(7)
    assert scene.guessed == []
    assert below.state is NodeState.DEAD


def test_an_alternative_under_way_keeps_what_is_below_it() -> None:
    scene = Scene({(): (7, 0.5), (7,): (8, 0.5)})
    scene.grow()
    scene.drafted(scene.tree.root, 5)
    scene.tree.launch(scene.tree.root.children[1], RunId(1))
    scene.accept(7)
    assert scene.guessed == [(8, BY_HEAD)]


def test_a_chain_goes_on_from_where_the_farthest_position_has_ended_it() -> None:
    scene = Scene({(): (7, 0.97), (7,): (8, 0.97), (8,): (9, 0.97)}, farthest=11)
    scene.grow()
    assert len(scene.guessed) == 2
    scene.tree.launch(scene.tree.root.children[0], RunId(1))
    scene._farthest = 12
    scene.accept(7)
    assert [token for token, _ in scene.guessed] == [8, 9]


def test_nothing_follows_a_stop() -> None:
    scene = Scene({(): (7, 0.97), (7,): (8, 0.97)}, stops=frozenset({Token(7)}))
    scene.grow()
    assert [token for token, _ in scene.guessed] == [7]


def test_each_node_is_asked_about_once_and_none_that_has_died() -> None:
    scene = Scene({})
    node = scene.drafted(scene.tree.root, 5)
    wrong = scene.tree.add(node, Token(6), 0.5, BY_DRAFT)
    for _ in range(3):
        scene.grow()
    assert scene.guesser.asked == [(), (5,)]
    scene.beside.met(wrong)
    scene.tree.launch(node, RunId(1))
    scene.tree.advance(Token(5))
    scene.accept(1)
    assert scene.guesser.asked[2:] == [()]


def test_a_draft_that_is_often_late_or_wrong_is_not_waited_for() -> None:
    scene = Scene({(): (7, 0.6)}, farthest=100)
    for _ in range(60):
        scene.accept(1)
    scene.tree.launch(scene.tree.root, RunId(1))
    scene.grow()
    assert scene.guessed == [(7, BY_HEAD)]
