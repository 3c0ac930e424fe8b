"""The token tree and the labels of its cells."""

from __future__ import annotations

import pytest

from mpispec.core.ids import NodeId, Pos, RequestId, RunId, SeqId, Token
from mpispec.core.messages import Branch, CacheOp, CacheOpKind, Row, Run
from mpispec.core.sequences import SequencePool, drop_dead, place, row_labels
from mpispec.core.tree import BY_DRAFT, BY_EXIT, BY_HEAD, Node, NodeState, TokenTree

pytestmark = pytest.mark.unit


def _tree() -> TokenTree:
    tree = TokenTree(NodeId(9), Token(100), Pos(9))
    tree.root.seq = SeqId(0)
    tree.dispatch(tree.root, RunId(0))
    return tree


def _dispatch(tree: TokenTree, node: Node, pool: SequencePool) -> list[CacheOp]:
    nodes, cache_ops, branches = place([node], pool.take)
    assert nodes == [node]
    assert branches == []
    tree.dispatch(node, RunId(1))
    return cache_ops


def _pool() -> SequencePool:
    pool = SequencePool(4)
    assert pool.take() == 0
    return pool


def test_equal_children_are_merged() -> None:
    tree = _tree()
    assert tree.add(tree.root, Token(1), 0.5) is tree.add(tree.root, Token(1), 0.4)


def test_a_merged_node_has_all_its_drafters_and_the_greatest_probability() -> None:
    tree = _tree()
    node = tree.add(tree.root, Token(1), 0.5, BY_DRAFT)
    below = tree.add(node, Token(2), 0.5, BY_DRAFT)
    assert tree.add(tree.root, Token(1), 0.8, BY_HEAD) is node
    assert (node.prob, node.path_prob, below.path_prob) == (0.8, 0.8, 0.4)
    tree.add(tree.root, Token(1), 0.1, BY_EXIT)
    assert (node.prob, node.drafters, below.drafters) == (0.8, BY_DRAFT | BY_HEAD | BY_EXIT, BY_DRAFT)


def test_a_draft_token_knows_how_far_beyond_the_accepted_text_it_was_made() -> None:
    tree = _tree()
    node = tree.add(tree.root, Token(1), 0.5)
    below = tree.add(node, Token(2), 0.5)
    tree.advance(Token(1))
    assert (node.depth, below.depth, tree.add(below, Token(3), 0.5).depth) == (1, 2, 2)


def test_a_dispatched_child_remains_the_favourite() -> None:
    tree = _tree()
    first, better = tree.add(tree.root, Token(1), 0.5), tree.add(tree.root, Token(2), 0.9)
    assert tree.root.favourite() is better
    tree.dispatch(first, RunId(1))
    assert tree.root.favourite() is first


def test_a_path_has_its_tokens_and_the_product_of_their_probabilities() -> None:
    tree = _tree()
    end = tree.add(tree.add(tree.root, Token(1), 0.5), Token(2), 0.5)
    assert tree.path(end) == [1, 2]
    assert (end.path_prob, end.pos) == (0.25, 11)
    assert tree.tip() is end


def test_an_accepted_draft_token_becomes_the_root_and_keeps_its_subtree() -> None:
    tree = _tree()
    right = tree.add(tree.root, Token(1), 0.5)
    below = tree.add(right, Token(2), 0.5)
    wrong = tree.add(tree.root, Token(3), 0.2)
    assert tree.advance(Token(1)) == [wrong]
    assert tree.root is right
    assert tree.root.children == [below]
    assert below.path_prob == right.path_prob * 0.5
    assert wrong.state is NodeState.DEAD


def test_a_rejection_makes_a_root_that_nobody_had_drafted() -> None:
    tree = _tree()
    first = tree.add(tree.root, Token(1), 0.5)
    second = tree.add(first, Token(2), 0.5)
    assert tree.advance(Token(7)) == [first, second]
    assert (tree.root.token, tree.root.pos, tree.root.parent_id) == (7, 10, 9)
    assert tree.root.state is NodeState.PENDING


def test_a_chain_inherits_one_id_and_truncates_it() -> None:
    tree, pool = _tree(), _pool()
    first = tree.add(tree.root, Token(1), 0.5)
    second = tree.add(first, Token(2), 0.5)
    assert _dispatch(tree, first, pool) == _dispatch(tree, second, pool) == []
    dead = tree.advance(Token(7))
    tree.root.seq = SeqId(0)
    assert drop_dead(dead, tree.root, pool) == [CacheOp(CacheOpKind.DROP, SeqId(0), SeqId(0), Pos(10), -1)]
    assert pool.num_free == 3


def test_a_second_child_shares_its_ancestors_and_survives_the_first() -> None:
    tree, pool = _tree(), _pool()
    first, second = tree.add(tree.root, Token(1), 0.5), tree.add(tree.root, Token(2), 0.4)
    assert _dispatch(tree, first, pool) == []
    assert _dispatch(tree, second, pool) == [CacheOp(CacheOpKind.SHARE, SeqId(0), SeqId(1), Pos(0), 10)]
    dead = tree.advance(Token(2))
    assert tree.root.seq == 1
    assert drop_dead(dead, tree.root, pool) == [CacheOp(CacheOpKind.DROP, SeqId(0), SeqId(0), Pos(0), -1)]
    assert pool.take() == 0


def test_no_free_id_is_no_crash() -> None:
    tree, pool = _tree(), SequencePool(1)
    pool.take()
    _dispatch(tree, tree.add(tree.root, Token(1), 0.5), pool)
    assert place([tree.add(tree.root, Token(2), 0.4)], pool.take).nodes == []


def test_branches_within_a_run_label_the_ancestors_that_come_with_it() -> None:
    tree, pool = _tree(), SequencePool(8)
    assert pool.take() == 0
    trunk = tree.add(tree.root, Token(1), 0.5)
    left, right = tree.add(trunk, Token(2), 0.5), tree.add(trunk, Token(3), 0.4)
    below, sibling = tree.add(right, Token(4), 0.9), tree.add(right, Token(5), 0.1)
    nodes, cache_ops, branches = place([trunk, left, right, below, sibling], pool.take)
    assert [node.seq for node in nodes] == [0, 0, 1, 1, 2]
    assert cache_ops == [
        CacheOp(CacheOpKind.SHARE, SeqId(0), SeqId(1), Pos(0), 10),
        CacheOp(CacheOpKind.SHARE, SeqId(1), SeqId(2), Pos(0), 10),
    ]
    assert branches == [Branch(SeqId(0), SeqId(1), Pos(10), Pos(11)), Branch(SeqId(1), SeqId(2), Pos(10), Pos(12))]
    rows = [
        Row(RequestId(0), node.id, node.parent_id, node.token, node.pos, node.seq or SeqId(0), True) for node in nodes
    ]
    assert row_labels(Run(RunId(0), tuple(rows), branches=tuple(branches))) == [[0, 1, 2], [0], [1, 2], [1], [2]]


def test_a_run_ends_where_ids_do() -> None:
    tree, pool = _tree(), SequencePool(2)
    pool.take()
    nodes = [tree.root]
    for token in range(3):
        nodes.append(tree.add(tree.root, Token(token), 0.3))
    assert place(nodes, pool.take).nodes == nodes[:3]


def test_what_is_ready_follows_dispatches_and_deaths() -> None:
    tree = _tree()
    first, second = tree.add(tree.root, Token(1), 0.5), tree.add(tree.root, Token(2), 0.4)
    below = tree.add(first, Token(3), 0.9)
    assert list(tree.ready()) == [first, second]
    tree.dispatch(first, RunId(1))
    assert list(tree.ready()) == [second, below]
    tree.advance(Token(1))
    assert list(tree.ready()) == [below]
    tree.advance(Token(7))
    assert list(tree.ready()) == []
    draft_token = tree.add(tree.root, Token(8), 0.5)
    tree.dispatch(tree.root, RunId(2))
    assert list(tree.ready()) == [draft_token]


def test_path_probabilities_stay_comparable_over_a_long_answer() -> None:
    tree = _tree()
    for _ in range(2000):
        tree.add(tree.root, Token(1), 0.1)
        tree.advance(Token(1))
    likely, unlikely = tree.add(tree.root, Token(1), 0.6), tree.add(tree.root, Token(2), 0.2)
    assert likely.path_prob > 2 * unlikely.path_prob > 0
