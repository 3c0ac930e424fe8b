"""How long others wait for a token while a prompt is read, and how much longer reading takes (ADR 0048, 0053)."""

from __future__ import annotations

import pytest

from research.reading import ROWS, compared

pytestmark = pytest.mark.protocol


@pytest.mark.parametrize("rows", ROWS)
def test_a_long_prompt_leaves_others_their_rhythm(rows: str) -> None:
    """Of runs apart a user's take t(1) of each pass, so that a tenth longer reading means 2.75 times the gap."""
    found = compared(rows, prompt=2048, tokens=200, mode="exact", num_users=1)
    assert found["gap"] < 4.0
    assert found["reading"] <= 1.13


@pytest.mark.parametrize(
    ("rows", "gap", "reading"),
    [
        pytest.param("flat", 2.0, 1.1, id="free rows"),
        pytest.param("free8", 2.0, 1.1, id="rows that are free up to eight"),
        pytest.param("gpu", 2.0, 1.1, id="rows of a GPU with room"),
        pytest.param("cpu8", 2.3, 1.16, id="rows of a CPU, which do not allow both"),
        pytest.param("moe", 2.3, 1.1, id="MoE-like rows"),
        pytest.param("gpu4", 4.2, 1.1, id="a second row costs 3.3 of one"),
    ],
)
def test_newest_tokens_in_the_runs_of_a_prompt_wait_little(rows: str, gap: float, reading: float) -> None:
    found = compared(rows, prompt=2048, tokens=200, mode="throughput", num_users=1)
    assert found["gap"] <= gap
    assert found["reading"] <= reading
