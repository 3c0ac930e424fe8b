"""KV cache operations: what is sent for a request's life, in which order, and what no backend gets unasked."""

from __future__ import annotations

from functools import partial

import pytest

from mpispec.compute.llama_traits import DeferredFree
from mpispec.core.cache_operations import CacheOperations
from mpispec.core.cells import Slot
from mpispec.core.ids import NodeId, Pos, RunId, SeqId, Token
from mpispec.core.messages import CacheOp, CacheOpKind
from mpispec.core.tree import Node, TokenTree

pytestmark = pytest.mark.unit

PROMPT = (Token(1), Token(2), Token(3))


def drop(seq: int, start: int) -> CacheOp:
    return CacheOp(CacheOpKind.DROP, SeqId(seq), SeqId(seq), Pos(start), -1)


def begun(cache: CacheOperations) -> tuple[Slot, TokenTree]:
    """Return the slot and the tree of a request whose prompt has been dispatched."""
    adopted = cache.adopt(PROMPT)
    assert adopted is not None
    slot, _ = adopted
    tree = TokenTree(NodeId(2), PROMPT[-1], Pos(2))
    tree.root.seq = slot.seq
    tree.dispatch(tree.root, RunId(0))
    return slot, tree


def placed(cache: CacheOperations, tree: TokenTree, *tokens: int) -> list[Node]:
    """Dispatch children of the root, each with a run of its own."""
    nodes = [tree.add(tree.root, Token(token), 0.5) for token in tokens]
    for node in nodes:
        assert cache.place([node]).nodes == [node]
        tree.dispatch(node, RunId(1))
    return nodes


def test_the_next_run_takes_all_that_is_pending_once() -> None:
    cache = CacheOperations(4, 1)
    _, tree = begun(cache)
    placed(cache, tree, 4, 5)
    assert cache.take() == (CacheOp(CacheOpKind.SHARE, SeqId(0), SeqId(1), Pos(0), 3),)
    assert cache.take() == ()


def test_an_id_is_dropped_before_it_is_given_to_another_node() -> None:
    cache = CacheOperations(2, 1)
    _, tree = begun(cache)
    placed(cache, tree, 4, 5)
    cache.take()
    assert cache.num_free == 0
    cache.free(tree.advance(Token(4)), tree.root)
    placed(cache, tree, 6, 7)
    assert cache.take() == (drop(1, 0), CacheOp(CacheOpKind.SHARE, SeqId(0), SeqId(1), Pos(0), 4))


def test_what_a_request_leaves_is_what_its_successor_adopts() -> None:
    cache = CacheOperations(4, 1)
    slot, tree = begun(cache)
    cache.free(tree.prune_children(), tree.root)
    cache.keep(slot, PROMPT[:2])
    assert cache.take() == (drop(0, 2),)
    cache.check(set())
    adopted = cache.adopt((Token(1), Token(7)))
    assert adopted is not None
    slot, cached = adopted
    assert cached == 1
    assert cache.take() == (drop(0, 1),)
    cache.check({slot.seq})


def test_a_plain_backend_has_dead_cells_freed_at_once_and_never_gathers() -> None:
    cache = CacheOperations(4, 1)
    slot, tree = begun(cache)
    placed(cache, tree, 4, 5)
    cache.take()
    cache.free(tree.advance(Token(5)), tree.root)
    cache.collect(SeqId(1))
    assert cache.take() == (drop(0, 0),)
    assert not cache.must_collect(slot.seq)
    assert not cache.should_collect(slot.seq)


def test_where_the_order_of_cells_matters_the_dead_keep_their_places_until_the_text_is_alone() -> None:
    cache = CacheOperations(4, 1, freeing=partial(DeferredFree, most_cells=1))
    slot, tree = begun(cache)
    placed(cache, tree, 4, 5)
    cache.take()
    cache.free(tree.advance(Token(5)), tree.root)
    assert cache.take() == (CacheOp(CacheOpKind.SHARE, SeqId(0), SeqId(1), Pos(3), -1), drop(0, 0))
    assert cache.must_collect(slot.seq)
    cache.collect(SeqId(2))
    assert cache.take() == (drop(1, 0), CacheOp(CacheOpKind.GATHER, SeqId(2), SeqId(2), Pos(0), -1))
    assert not cache.must_collect(slot.seq)
