"""How long others wait for a token while a prompt is read, and how much longer reading takes for them (ADR 0048)."""

from __future__ import annotations

import pytest

from research.reading import ROWS, compared

pytestmark = pytest.mark.protocol


@pytest.mark.parametrize("rows", ROWS)
def test_a_long_prompt_leaves_others_their_rhythm(rows: str) -> None:
    """Of runs apart a user's take t(1) of each pass, so that a tenth longer reading means 2.75 times the gap."""
    found = compared(rows, prompt=2048, tokens=200, is_exact=True)
    assert found["gap"] < 4.0
    assert found["reading"] < 1.13


def test_rows_that_share_cells_wait_behind_tiles() -> None:
    assert compared("cpu8", prompt=2048, tokens=200, is_exact=False)["gap"] > 20.0
