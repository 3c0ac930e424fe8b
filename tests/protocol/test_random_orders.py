"""The text is the plain text whatever the order of messages, the timing of cancels and the quality of draft tokens.

A failing seed is repeated by `python -m tests.protocol.repeat SEED`.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.protocol.scenario import DRAFTERS, STRATEGIES, draw, play

pytestmark = pytest.mark.protocol

SEEDS_EACH = 400
NIGHT_SEED = 1_000_000
"""First of the seeds that the long run plays."""


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_every_strategy_writes_the_plain_text_in_any_order(strategy: str) -> None:
    steps = sum(play(draw(seed, strategies=[strategy])) for seed in range(SEEDS_EACH))
    assert steps > 100 * SEEDS_EACH, "the scenarios have become too small to prove anything"


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_no_drafter_changes_the_text(drafter: str) -> None:
    for seed in range(10_000, 10_000 + SEEDS_EACH):
        play(draw(seed, drafters=[drafter]))


@given(seed=st.integers(min_value=20_000, max_value=2**31))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_seed_writes_the_plain_text(seed: int) -> None:
    play(draw(seed))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_million_steps_write_the_plain_text() -> None:
    steps, seed = 0, NIGHT_SEED
    while steps < 1_000_000:
        steps += play(draw(seed))
        seed += 1


def test_a_seed_repeats_itself() -> None:
    assert [play(draw(seed)) for seed in range(20)] == [play(draw(seed)) for seed in range(20)]
