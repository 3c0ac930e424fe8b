"""Penalties, biases and tokens held back: every strategy and drafter writes the text of plain decoding.

What a token is penalised for is the path above its row, whether that path is accepted or a guess.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from mpispec.core.ids import Token
from mpispec.core.messages import Sampling
from tests.protocol.playing import GREEDY
from tests.protocol.scenario import STRATEGIES
from tests.protocol.table import DRAFTERS, SAMPLED, Cell, Circumstances, Situation, written
from tests.protocol.test_table import circumstances

pytestmark = pytest.mark.protocol

COUNTED = Sampling(presence_penalty=1.5, frequency_penalty=0.75)
EVERYTHING = Sampling(
    temperature=0.8,
    seed=29,
    repeat_penalty=1.5,
    repeat_last_n=3,
    presence_penalty=0.5,
    frequency_penalty=-0.5,
    logit_bias=((Token(1), 3.0), (Token(9), 5.0)),
    held=(Token(0), Token(2)),
    held_to=4,
)
CELLS = [
    Cell(strategy, sampling, drafter, num_stages)
    for strategy in sorted(STRATEGIES)
    for sampling in (COUNTED, EVERYTHING)
    for drafter in DRAFTERS
    if drafter not in ("perfect", "wrong")
    for num_stages in (1, 3)
]


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell}-{'all' if cell.sampling.held else 'counted'}")
def test_a_cell_writes_the_plain_text_in_any_order(cell: Cell) -> None:
    @settings(max_examples=3, deadline=None, derandomize=True, database=None)
    @given(start=circumstances)
    def plays(start: Circumstances) -> None:
        assert Situation(cell, start).play()

    plays()


@pytest.mark.parametrize("strategy", ["plain", "pipeinfer", "bushy"])
def test_a_request_that_gave_its_cells_to_others_keeps_its_counts(strategy: str) -> None:
    preempted = 0
    for seed in range(12):
        prompts = tuple(tuple((seed + index + step) % 5 for step in range(6)) for index in range(3))
        given = Circumstances(seed, prompts, 20, 3, 3, 2, 8, 0.7, cells=64)
        situation = Situation(Cell(strategy, EVERYTHING, "random", 2), given)
        cluster = situation.cluster()
        situation.play(cluster)
        preempted += sum(answer.statistics.preemptions for answer in cluster.answers.values() if answer.statistics)
    assert preempted > 0


def test_each_of_them_changes_the_text() -> None:
    prompt = (1, 2, 3, 1)
    plain = written(prompt, 40, 2, GREEDY)
    assert max(plain.count(token) for token in range(5)) > 10
    counted = written(prompt, 40, 2, COUNTED)
    assert max(counted.count(token) for token in range(5)) - min(counted.count(token) for token in range(5)) <= 4
    assert written(prompt, 40, 2, EVERYTHING) != written(prompt, 40, 2, SAMPLED)
    assert not {0, 2} & set(written(prompt, 4, 2, EVERYTHING))
