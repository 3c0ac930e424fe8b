"""Cells of its own for each request: whose ids are whose, which cache a request gets, what is kept apart."""

from __future__ import annotations

from functools import partial

import pytest

from mpispec.compute.llama_traits import DeferredFree
from mpispec.core.cells import Slot
from mpispec.core.ids import NodeId, Pos, RunId, SeqId, Token
from mpispec.core.messages import CacheOp, CacheOpKind
from mpispec.core.own_caches import OwnCaches
from mpispec.core.tree import Node, TokenTree

pytestmark = pytest.mark.unit

SEQUENCES = 4


def text(*tokens: int) -> tuple[Token, ...]:
    return tuple(Token(token) for token in tokens)


def drop(seq: int, start: int) -> CacheOp:
    return CacheOp(CacheOpKind.DROP, SeqId(seq), SeqId(seq), Pos(start), -1)


def begun(cache: OwnCaches, prompt: tuple[Token, ...]) -> tuple[Slot, TokenTree]:
    """Return the slot and the tree of a request whose prompt has been dispatched."""
    slot, _ = cache.adopt(prompt)
    last = len(prompt) - 1
    tree = TokenTree(NodeId(last), prompt[-1], Pos(last))
    tree.root.seq = slot.seq
    tree.dispatch(tree.root, RunId(0))
    return slot, tree


def placed(cache: OwnCaches, tree: TokenTree, *tokens: int) -> list[Node]:
    """Dispatch children of the root in one run."""
    nodes = [tree.add(tree.root, Token(token), 0.5) for token in tokens]
    assert cache.place(nodes).nodes == nodes
    for node in nodes:
        tree.dispatch(node, RunId(1))
    return nodes


def test_ids_say_whose_cells_are_meant() -> None:
    cache = OwnCaches(SEQUENCES, 3)
    trees = [begun(cache, text(1, 2))[1] for _ in range(3)]
    for index, tree in enumerate(trees):
        assert [node.seq for node in placed(cache, tree, 5, 6)] == [SEQUENCES * index, SEQUENCES * index + 1]
    shares = [CacheOp(CacheOpKind.SHARE, SeqId(seq), SeqId(seq + 1), Pos(0), 2) for seq in (0, 4, 8)]
    assert cache.take() == tuple(shares)
    cache.check({node.seq for tree in trees for node in tree.root.subtree()})


def test_a_request_gets_the_cache_with_most_of_its_prompt_then_an_empty_one_then_the_oldest() -> None:
    cache = OwnCaches(SEQUENCES, 3)
    slots = [cache.adopt(text(token))[0] for token in (1, 2)]
    for slot, tokens in zip(slots, (text(1, 2, 3), text(4, 5, 6)), strict=True):
        cache.keep(slot, tokens)
    assert cache.adopt(text(4, 5, 7))[0].seq == SEQUENCES, "two positions are cached there"
    assert cache.adopt(text(8, 9))[0].seq == 2 * SEQUENCES, "nothing is cached there"
    assert cache.adopt(text(8, 9))[0].seq == 0, "no other is left"


def test_what_was_left_first_is_given_away_first() -> None:
    cache = OwnCaches(SEQUENCES, 2)
    slots = [cache.adopt(text(token))[0] for token in (1, 2)]
    for slot in reversed(slots):
        cache.keep(slot, text(1 + slot.seq))
    assert cache.adopt(text(9, 9))[0].seq == SEQUENCES


def test_dead_cells_of_one_request_hold_up_no_other() -> None:
    cache = OwnCaches(SEQUENCES, 2, freeing=partial(DeferredFree, most_cells=1))
    first, second = (begun(cache, text(1, 2))[1] for _ in range(2))
    placed(cache, first, 4, 5)
    placed(cache, second, 4)
    cache.free(first.advance(Token(5)), first.root)
    cache.take()
    assert first.root.seq is not None and second.root.seq is not None
    assert cache.must_collect(first.root.seq) and cache.should_collect(first.root.seq)
    assert not cache.must_collect(second.root.seq) and not cache.should_collect(second.root.seq)
    cache.collect(second.root.seq)
    assert cache.take() == (), "the second has nothing to collect"
    cache.collect(first.root.seq)
    assert [cache_op.kind for cache_op in cache.take()] == [CacheOpKind.DROP, CacheOpKind.GATHER]


def test_what_is_sent_of_one_cache_keeps_its_order() -> None:
    cache = OwnCaches(SEQUENCES, 2)
    (first, _), (second, tree) = (begun(cache, text(1, 2, 3)) for _ in range(2))
    cache.truncate(second.seq, 2)
    cache.keep(first, text(1))
    placed(cache, tree, 7, 8)
    assert cache.take() == (
        drop(0, 1),
        drop(SEQUENCES, 2),
        CacheOp(CacheOpKind.SHARE, SeqId(SEQUENCES), SeqId(SEQUENCES + 1), Pos(0), 3),
    )
