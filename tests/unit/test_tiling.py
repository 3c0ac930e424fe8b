"""Runs of long prompts, and how much of a cached text they keep."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpispec.compute.llama_traits import Tiling
from mpispec.core.ids import Token
from mpispec.core.sequences import SequencePool
from mpispec.core.sessions import Sessions
from mpispec.core.traits import Prefill

pytestmark = pytest.mark.unit

TILING = Tiling(tile=4, long=12)


@given(st.integers(1, 80), st.integers(1, 20), st.data())
def test_a_long_prompt_is_whole_tiles_after_its_first_run(tile: int, times: int, data: st.DataObject) -> None:
    tiling = Tiling(tile=tile, long=tile * times + data.draw(st.integers(0, tile - 1)))
    num_tokens = data.draw(st.integers(tiling.long, 3 * tiling.long))
    common = data.draw(st.integers(0, num_tokens - 1))
    kept = tiling.reusable(num_tokens, common, data.draw(st.integers(0, num_tokens)), num_prompt=tiling.long)
    assert 0 <= kept <= common
    final = tiling.num_final(num_tokens - kept)
    assert 1 <= final <= tile
    assert (num_tokens - kept - final) % tile == 0
    assert final == tile or kept == 0, "rows of an earlier request would be computed again"


@pytest.mark.parametrize(
    ("num_tokens", "num_common", "num_read", "kept"),
    [
        pytest.param(11, 7, 8, 7, id="short after short"),
        pytest.param(11, 7, 20, 0, id="short after long"),
        pytest.param(30, 25, 9, 0, id="long after short"),
        pytest.param(30, 25, 20, 18, id="long after long: the answer between them was computed by rows"),
        pytest.param(30, 29, 29, 26, id="a whole tile at least"),
        pytest.param(14, 1, 20, 0, id="no whole number of tiles is missing"),
    ],
)
def test_no_cell_is_kept_that_would_be_computed_otherwise(
    num_tokens: int, num_common: int, num_read: int, kept: int
) -> None:
    assert TILING.reusable(num_tokens, num_common, num_read, num_prompt=num_read) == kept


@pytest.mark.parametrize(
    ("num_common", "num_read", "kept"),
    [
        pytest.param(10, 11, 9, id="whole runs of the prompt"),
        pytest.param(10, 5, 3, id="of a prompt's last run, which was shorter, nothing"),
        pytest.param(10, 2, 0, id="no whole run"),
        pytest.param(4, 11, 3, id="only what both have"),
    ],
)
def test_where_bits_depend_on_the_run_whole_runs_of_the_prompt_are_kept(
    num_common: int, num_read: int, kept: int
) -> None:
    assert Tiling(tile=4, long=12, chunk=3).reusable(11, num_common, num_read, num_prompt=num_read) == kept


def test_where_bits_depend_on_others_anyway_a_long_prompt_may_be_cut_otherwise() -> None:
    cut = Tiling(tile=4, long=12, may_cut=True)
    assert not cut.is_fixed(14, 0)
    assert cut.next_run(14, 0, 3) == (3, 3)
    assert cut.next_run(14, 3, 4) == (4, 4), "no run begins over another"
    assert cut.usual(14, 13, 2) == 4, "alone it is read in tiles"
    assert cut.usual(14, 14, 2) == 2, "but no answer is, when it is computed once more"
    assert cut.next_run(14, 0, 4) == TILING.next_run(14, 0, 4) == (4, 2), "and as without others"
    assert TILING.is_fixed(14, 0)


def tokens(count: int) -> tuple[Token, ...]:
    return tuple(Token(index) for index in range(count))


def kept_of(prompt: int, left: int, successor: int, prefill: Prefill = TILING) -> int:
    """Return what a prompt keeps of another whose request left `left` tokens with cells."""
    sessions = Sessions(SequencePool(4), 1, prefill, [])
    slot, kept = sessions.adopt(tokens(prompt), prompt, None)
    assert kept == 0
    sessions.keep(slot, tokens(left))
    return sessions.adopt(tokens(successor), successor, None)[1]


def test_a_slot_remembers_which_of_its_cells_were_computed_in_tiles() -> None:
    assert kept_of(20, left=26, successor=30) == 18


def test_a_prompt_that_ended_early_left_fewer_of_them() -> None:
    assert kept_of(20, left=8, successor=30) == 6


def test_where_bits_do_not_matter_all_is_kept() -> None:
    assert kept_of(20, left=26, successor=30, prefill=Prefill()) == 26


def test_a_request_that_begins_again_keeps_its_answer_too() -> None:
    sessions = Sessions(SequencePool(4), 1, TILING, [])
    slot, _ = sessions.adopt(tokens(20), 20, None)
    sessions.keep(slot, tokens(26))
    assert sessions.adopt(tokens(30), 20, None)[1] == 26
