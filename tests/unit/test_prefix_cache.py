"""Cached prefixes: whose cells a request gets, which operations say so, what is evicted and what never is."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpispec.core.cache_operations import CacheOperations
from mpispec.core.cells import Slot, num_common
from mpispec.core.ids import NodeId, Pos, RunId, SeqId, Token
from mpispec.core.messages import CacheOp, CacheOpKind
from mpispec.core.tree import TokenTree

pytestmark = pytest.mark.unit


def text(*tokens: int) -> tuple[Token, ...]:
    return tuple(Token(token) for token in tokens)


def share(src: int, dst: int, end: int) -> CacheOp:
    return CacheOp(CacheOpKind.SHARE, SeqId(src), SeqId(dst), Pos(0), end)


def drop(seq: int, start: int = 0) -> CacheOp:
    return CacheOp(CacheOpKind.DROP, SeqId(seq), SeqId(seq), Pos(start), -1)


@dataclass
class Held:
    """A request whose text has cells up to a position."""

    seq: SeqId
    filled: int
    answered_to: int
    num_speculative: int = 0


def cache_of(cells: int | None = None, sequences: int = 6, max_active: int = 3) -> CacheOperations:
    return CacheOperations(sequences, max_active, shares=True, most_cells=cells)


def begun(cache: CacheOperations, tokens: tuple[Token, ...]) -> tuple[Slot, int]:
    adopted = cache.adopt(tokens)
    assert adopted is not None
    slot, cached = adopted
    slot.holder = Held(slot.seq, cached, cached)
    return slot, cached


def computed(slot: Slot, to: int) -> None:
    """Note that the stages have computed a request's text up to a position."""
    assert isinstance(slot.holder, Held)
    slot.holder.filled = slot.holder.answered_to = to


def ended(cache: CacheOperations, *tokens: int) -> None:
    """Leave a text in the cache; forget the operations."""
    slot, _ = begun(cache, text(*tokens, 99))
    computed(slot, len(tokens))
    cache.keep(slot, text(*tokens))
    cache.check(set())
    cache.take()


@given(st.lists(st.integers(0, 2), max_size=80), st.lists(st.integers(0, 2), max_size=80), st.integers(0, 80))
def test_what_two_texts_have_in_common(one: list[int], other: list[int], shared: int) -> None:
    ours, theirs = text(*one), text(*one[:shared], *other)
    same = [first == second for first, second in zip(ours, theirs, strict=False)]
    assert num_common(ours, theirs) == (same.index(False) if False in same else len(same))


def test_a_prompt_that_goes_on_where_a_text_ended_takes_its_cells_over() -> None:
    cache = cache_of()
    ended(cache, 1, 2, 3)
    slot, cached = begun(cache, text(1, 2, 3, 4))
    assert (slot.seq, cached, cache.take()) == (0, 3, ())
    computed(slot, 4)
    cache.keep(slot, text(1, 2, 3, 4))
    assert cache.take() == (drop(0, 4),)
    assert cache.num_cells == 4


def test_a_prompt_that_parts_from_a_text_shares_its_beginning_and_leaves_it_as_it_is() -> None:
    cache = cache_of()
    ended(cache, 1, 2, 3)
    slot, cached = begun(cache, text(1, 2, 7))
    assert (slot.seq, cached, cache.take()) == (1, 2, (share(0, 1, 2),))
    computed(slot, 3)
    assert cache.num_cells == 4, "two positions are shared"
    assert begun(cache, text(1, 2, 3, 4))[1] == 3
    cache.check({SeqId(0), SeqId(1)})


def test_the_last_token_of_a_prompt_is_computed_in_any_case() -> None:
    cache = cache_of()
    ended(cache, 1, 2, 3)
    assert begun(cache, text(1, 2, 3))[1] == 2


def test_requests_at_once_share_what_the_first_has_settled_of_its_prompt() -> None:
    cache = cache_of()
    first, _ = begun(cache, text(1, 2, 3, 4))
    assert isinstance(first.holder, Held)
    first.holder.filled, first.holder.answered_to = 3, 2
    _, cached = begun(cache, text(1, 2, 3, 5))
    assert cached == 2, "the third position is in flight and may be cancelled"
    assert cache.num_cells == 3


def test_a_request_catches_up_with_one_that_computes_the_same_prompt() -> None:
    cache = cache_of()
    first, _ = begun(cache, text(1, 2, 3, 4, 5))
    second, cached = begun(cache, text(1, 2, 3, 4, 6))
    assert cached == 0
    assert cache.is_coming(second, 4)
    assert not cache.is_coming(second, 5)
    assert not cache.is_coming(first, 1), "nobody waits for a younger one"
    computed(first, 5)
    cache.take()
    assert cache.catch_up(second) == 4
    assert cache.take() == (share(0, 1, 4),)
    assert not cache.is_coming(second, 1)


def test_the_end_of_the_text_that_was_used_longest_ago_is_evicted_first() -> None:
    cache = cache_of(cells=100)
    ended(cache, *range(40))
    ended(cache, *range(50, 90))
    slot, _ = begun(cache, text(*range(200, 230)))
    assert cache.make_room(30) == 30
    assert cache.take() == (drop(0, 8),), "cells are evicted by the dozen, not one for each row"
    assert cache.num_cells == 48
    computed(slot, 30)
    assert cache.make_room(60) == 60
    assert cache.take() == (drop(0), drop(1, 8))
    cache.check({slot.seq})


def test_what_a_request_uses_is_never_evicted() -> None:
    cache = cache_of(cells=10)
    ended(cache, 1, 2, 3, 4, 5, 6)
    slot, cached = begun(cache, text(1, 2, 3, 9))
    assert cached == 3
    computed(slot, 4)
    assert cache.make_room(10) == 6
    assert cache.num_cells == 4
    cache.check({slot.seq})


def test_of_an_inner_segment_no_cell_is_evicted_before_what_follows_it() -> None:
    cache = cache_of(cells=100)
    ended(cache, 1, 2, 3, 4)
    ended(cache, 1, 2, 7, 8)
    assert cache.num_cells == 6
    cache.make_room(96)
    assert cache.take() == (drop(0),)
    cache.make_room(98)
    assert cache.take() == (drop(1, 2),)
    assert begun(cache, text(1, 2, 3))[1] == 2


def test_a_text_is_evicted_for_its_sequence_id() -> None:
    cache = cache_of(sequences=2, max_active=1)
    ended(cache, 1, 2)
    ended(cache, 3, 4)
    slot, _ = begun(cache, text(5, 6))
    assert (slot.seq, cache.take()) == (0, (drop(0),))
    assert cache.num_free == 1
    tree = TokenTree(NodeId(1), Token(6), Pos(1))
    tree.root.seq = slot.seq
    tree.dispatch(tree.root, RunId(0))
    nodes = [tree.add(tree.root, Token(token), 0.5) for token in (7, 8, 9)]
    for node in nodes[:2]:
        assert cache.place([node]).nodes == [node]
        tree.dispatch(node, RunId(1))
    assert cache.take() == (drop(1), share(0, 1, 2))
    assert cache.place(nodes[2:]).nodes == [], "no text is left that nobody uses"


def test_ids_are_left_for_requests_that_are_to_begin() -> None:
    cache = cache_of(sequences=3, max_active=3)
    begun(cache, text(1))
    assert cache.num_free == 0


def test_a_request_waits_until_there_are_cells_for_its_prompt() -> None:
    cache = cache_of(cells=20)
    first, _ = begun(cache, text(*range(12)))
    assert cache.adopt(text(*range(50, 59))) is None, "the first one's prompt will need its cells"
    assert cache.adopt(text(*range(50, 58))) is not None
    computed(first, 12)
    cache.keep(first, text(*range(12)))
    assert cache.adopt(text(*range(70, 82))) is not None


def test_a_single_request_is_never_kept_waiting() -> None:
    cache = cache_of(cells=4)
    ended(cache, 1, 2, 3)
    _, cached = begun(cache, text(7, 8, 9, 10))
    assert cached == 0
    assert cache.make_room(4) == 4
    assert cache.take() == (drop(0),)


def test_what_a_prompt_rolls_back_it_no_longer_shares() -> None:
    cache = cache_of()
    ended(cache, 1, 2, 3, 4)
    slot, cached = begun(cache, text(1, 2, 3, 4, 5))
    assert cached == 4
    computed(slot, 2)
    cache.roll_back(slot, 2)
    assert cache.take() == (drop(0, 2),)
    assert cache.num_cells == 2
    cache.check({slot.seq})
