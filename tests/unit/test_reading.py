"""How many rows runs have that read a prompt while others decode."""

from __future__ import annotations

import itertools

import pytest

from mpispec.compute import llama_traits
from mpispec.core.config import HeadConfig
from mpispec.core.reading import reading
from mpispec.core.row_times import interpolated
from mpispec.sim.costs import ROWS_FACTORS, Modelled
from mpispec.sim.script import Script
from mpispec.sim.study import MOST_STEPS, PROMPT_TOKENS, Study, cluster_of, submission

pytestmark = pytest.mark.unit

FREE8 = interpolated({1: 1.0, 8: 1.0, 64: 8.0})
TILE = llama_traits.TILE


def _config(rows_cost: tuple[float, ...], past_cost: tuple[float, float] = (0.0, 0.0)) -> HeadConfig:
    factor = Modelled((1.0,), rows_factor=rows_cost).factor
    table = tuple(factor(rows) for rows in range(1, TILE + 1))
    return HeadConfig(4, None, 4096, 64, rows_cost=table, past_cost=past_cost, traits=llama_traits.traits(False))


def test_a_step_is_at_most_twice_as_long_where_that_reads_a_prompt_in_a_tenth_more_time() -> None:
    rows, _ = reading(_config(FREE8), TILE, 2048, 1)
    step = FREE8[rows - 1]
    assert step <= 2.0
    assert (2048 / (rows - 0.25) + 3) * step <= 1.1 * (2048 / TILE + 3) * FREE8[-1]
    assert (2048 / (rows - 2.25) + 3) * FREE8[rows - 3] > 1.1 * (2048 / TILE + 3) * FREE8[-1], "no shorter step does"


def test_a_wait_that_is_halved_may_cost_a_little_more_reading() -> None:
    """With rows as on a CPU a tenth allows 5.7 times the wait, and 1.15 of the time 2.1 times."""
    assert reading(_config(ROWS_FACTORS["cpu8"]), TILE, 2048, 1)[0] == 4
    assert reading(_config(ROWS_FACTORS["cpu8"]), 16, 512, 1)[0] == 4


def test_long_runs_stay_where_rows_of_shorter_ones_attend_much_more_slowly() -> None:
    """llama.cpp attends row by row below a tile: after 1,900 positions a row took 2.3 times as long."""
    assert reading(_config(ROWS_FACTORS["cpu8"], (0.002, 0.0005)), TILE, 2048, 1)[0] == TILE
    assert reading(_config(ROWS_FACTORS["cpu8"], (0.002, 0.002)), TILE, 2048, 1)[0] < TILE


def test_the_newest_tokens_of_many_leave_room_for_the_prompt() -> None:
    tables = (*ROWS_FACTORS.values(), FREE8)
    for rows_cost, num_decoding, alone in itertools.product(tables, (1, 7, 31, 63), (8, TILE)):
        rows, with_guesses = reading(_config(rows_cost), alone, 2048, num_decoding)
        assert num_decoding / 4 + 1 <= rows <= with_guesses <= TILE


def test_guesses_go_with_a_prompt_where_they_cost_next_to_nothing() -> None:
    assert reading(_config((1.0,)), 32, 200, 4)[1] == 63
    rows, with_guesses = reading(_config(ROWS_FACTORS["cpu8"]), 32, 200, 4)
    assert rows == with_guesses


def test_a_user_waits_little_while_another_s_long_prompt_is_read() -> None:
    """A token comes after twice the time without, give or take the run that it has just missed."""
    prompt, wanted = 1024, 60
    study = Study(rows_factor=FREE8, num_tokens=prompt + wanted, num_requests=2)
    script = Script.drawn(2, prompt + wanted + 2, 0)
    cluster = cluster_of("plain", study, script)
    user, reader = script.texts
    cluster.at(0.0, submission("plain", user, script.texts[user][:PROMPT_TOKENS], wanted))
    cluster.at(0.4, submission("plain", reader, script.texts[reader][:prompt], 1))
    cluster.run(MOST_STEPS)
    times = cluster.answers[user].times
    gap = max(after - before for before, after in itertools.pairwise(times))
    assert gap <= 2.0 * 0.04
    alone = (prompt / TILE + 3) * 0.010 * FREE8[-1]
    assert cluster.answers[reader].times[0] - 0.4 <= 1.1 * alone
