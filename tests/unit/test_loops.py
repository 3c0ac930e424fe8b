"""An answer that only repeats itself is noticed, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from mpispec.serve.text.detokenizer import LEAST_REPEATS, LEAST_TOKENS, LONGEST_BLOCK, LoopWatch

pytestmark = pytest.mark.unit


def noticed_after(tokens: Iterable[int]) -> int | None:
    """Return after how many tokens a loop is noticed."""
    watch = LoopWatch()
    for count, token in enumerate(tokens, 1):
        watch.push(token)
        if watch.is_loop:
            return count
    return None


@pytest.mark.parametrize("block", [1, 2, 7, 31, 32, 33, LONGEST_BLOCK])
@pytest.mark.parametrize("before", [0, 5, 300])
def test_a_block_again_and_again_is_noticed_where_the_rule_says(block: int, before: int) -> None:
    chance = random.Random(block)
    head = [1000 + chance.randrange(1000) for _ in range(before)]
    needed = max(LEAST_TOKENS, LEAST_REPEATS * block)
    assert noticed_after([*head, *(list(range(block)) * needed)]) == before + needed


def test_a_longer_block_is_left_alone() -> None:
    assert noticed_after(list(range(LONGEST_BLOCK + 1)) * 12) is None


def test_one_other_token_begins_the_count_anew() -> None:
    loop = [1, 2, 3] * 80
    assert noticed_after([*loop, 9, *loop]) is None


def test_a_table_of_zeros_is_no_loop() -> None:
    """Sixteen rows with a number in front of each, and a hundred zeros in a row."""
    rows = [token for row in range(16) for token in (500 + row, *[7] * 32, 8)]
    assert noticed_after(rows) is None
    assert noticed_after([7, 9] * 100) is None


def by_the_rule(tokens: list[int]) -> int | None:
    """Return the same by a count for each length of a block."""
    equal = [0] * (LONGEST_BLOCK + 1)
    for count, token in enumerate(tokens, 1):
        for block in range(1, min(LONGEST_BLOCK, count - 1) + 1):
            equal[block] = equal[block] + 1 if tokens[count - 1 - block] == token else 0
            if equal[block] + block >= max(LEAST_TOKENS, LEAST_REPEATS * block):
                return count
    return None


@pytest.mark.parametrize("seed", range(20))
def test_any_text_of_loops_is_noticed_where_the_rule_says(seed: int) -> None:
    chance = random.Random(seed)
    tokens: list[int] = []
    for _ in range(12):
        block = [chance.randrange(3) for _ in range(chance.randint(1, LONGEST_BLOCK + 20))]
        tokens += (block * 300)[: chance.randrange(500)]
    assert noticed_after(tokens) == by_the_rule(tokens)


def test_words_without_a_block_are_no_loop() -> None:
    chance = random.Random(3)
    assert noticed_after(chance.randrange(3) for _ in range(5000)) is None
