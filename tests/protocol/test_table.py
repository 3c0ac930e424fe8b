"""Every strategy x temperature x drafter x number of stages writes the plain text, whatever the delays.

Hypothesis draws prompts, bounds and the seed of all delays, and makes them small where a cell fails. Each cell plays
situations until it has made its steps, so the table as a whole has made as many as it promises.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.protocol.playing import GREEDY
from tests.protocol.scenario import STRATEGIES, VOCABULARY
from tests.protocol.table import DRAFTERS, SAMPLED, Cell, Circumstances, Situation, decided, written

pytestmark = pytest.mark.protocol

CELLS = [
    Cell(strategy, sampling, drafter, num_stages)
    for strategy in sorted(STRATEGIES)
    for sampling in (GREEDY, SAMPLED)
    for drafter in DRAFTERS
    for num_stages in (1, 2, 3, 5)
]
EXAMPLES, STEPS = 3, 100
"""By cell: situations that Hypothesis draws, and steps for which each goes on under further orders."""
LONG_EXAMPLES, LONG_STEPS = 12, 200

tokens = st.integers(0, VOCABULARY - 1)
circumstances = st.builds(
    Circumstances,
    seed=st.integers(0, 2**31),
    prompts=st.lists(st.lists(tokens, min_size=1, max_size=8).map(tuple), min_size=1, max_size=3).map(tuple),
    length=st.integers(2, 16),
    parallel=st.integers(1, 3),
    chunk=st.sampled_from([1, 3, 64]),
    first_queue=st.integers(1, 3),
    spare_sequences=st.sampled_from([0, 1, 8]),
    acceptance_rate=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
)


def play_on(cell: Cell, start: Circumstances, most_steps: int) -> int:
    """Play a situation in one order after the other until enough steps are made; return how many."""
    steps, order = 0, start.seed
    while steps < most_steps:
        steps += Situation(cell, Circumstances(**{**vars(start), "seed": order})).play()
        order += 1
    return steps


def play_cell(cell: Cell, examples: int, steps: int) -> None:
    """Have Hypothesis draw situations of a cell."""

    @settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    @given(start=circumstances)
    def plays(start: Circumstances) -> None:
        assert play_on(cell, start, steps) >= steps

    plays()


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_cell_writes_the_plain_text_in_any_order(cell: Cell) -> None:
    play_cell(cell, EXAMPLES, STEPS)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_cell_writes_the_plain_text_at_length(cell: Cell) -> None:
    play_cell(cell, LONG_EXAMPLES, LONG_STEPS)


def test_the_table_makes_the_steps_it_promises() -> None:
    assert len(CELLS) == len(STRATEGIES) * 2 * 7 * 4
    assert len(CELLS) * EXAMPLES * STEPS >= 100_000
    assert len(CELLS) * LONG_EXAMPLES * LONG_STEPS >= 1_000_000


def test_temperature_changes_the_text() -> None:
    greedy, sampled = (written((1, 2, 3), 40, 3, sampling) for sampling in (GREEDY, SAMPLED))
    assert greedy != sampled
    choices = [decided(value, GREEDY, [0]) != decided(value, SAMPLED, [0]) for value in range(1000)]
    assert 0.1 < sum(choices) / len(choices) < 0.9, "sampling must neither copy nor forget the best logit"
