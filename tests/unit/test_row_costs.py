"""What several rows cost, measured on a stage whose costs are known."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from mpispec.compute.base import Cancelled, Floats, StageModel
from mpispec.compute.toy import ToyStage
from mpispec.core.config import HeadConfig
from mpispec.core.ids import Actor
from mpispec.core.messages import Run
from mpispec.runtime import row_costs as module
from mpispec.runtime.group import Group
from mpispec.runtime.link_costs import link_cost
from mpispec.runtime.row_costs import ReadingCosts, reading_costs, row_tables, slowest_seconds
from mpispec.transport.loopback import LoopbackTransport

pytestmark = pytest.mark.unit


class TimedStage(ToyStage):
    """A toy whose forward moves a clock by hand."""

    now = 0.0

    def forward(self, run: Run, activations: Floats | None, cancelled: Cancelled) -> Floats | None:
        TimedStage.now += 0.5 + 0.5 * len(run.rows)
        return super().forward(run, activations, cancelled)


def slow_down(monkeypatch: pytest.MonkeyPatch, further: Callable[[Run], float]) -> None:
    """Have each run take some seconds more."""
    forward = TimedStage.forward

    def slower(stage: TimedStage, run: Run, activations: Floats | None, cancelled: Cancelled) -> Floats | None:
        TimedStage.now += further(run)
        return forward(stage, run, activations, cancelled)

    monkeypatch.setattr(TimedStage, "forward", slower)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> dict[Actor, StageModel]:
    """One stage, by whose clock everything is timed."""
    monkeypatch.setattr(time, "monotonic", lambda: TimedStage.now)
    return {Actor(1): TimedStage(0, is_last=True, vocabulary=8)}


def measured(stages: dict[Actor, StageModel]) -> list[float]:
    """Return the seconds of runs of 1, 2, 4, 8 and 16 rows, as many as were measured."""
    return row_tables(Group(LoopbackTransport()), stages, Actor(1), width=4)[Actor(1)]


def test_a_table_holds_the_seconds_of_each_number_of_rows(
    timed: dict[Actor, StageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BUDGET_S", 100.0)
    seconds = measured(timed)
    assert seconds == pytest.approx([0.5 + 0.5 * rows for rows in (1, 2, 4, 8, 16)])


def test_a_slow_host_measures_less(timed: dict[Actor, StageModel], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_S", 5.0)
    began = TimedStage.now
    assert measured(timed) == [1.0, 1.5]
    assert TimedStage.now - began <= 6.0


def test_a_disturbed_measurement_says_no_more_than_that_a_run_costs_its_halves(
    timed: dict[Actor, StageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BUDGET_S", 1000.0)
    slow_down(monkeypatch, lambda run: 90.0 if len(run.rows) == 8 else 0.0)
    seconds = measured(timed)
    assert seconds[2:] == [2.5, 5.0, 8.5]


def test_a_pipeline_is_as_slow_as_its_slowest_stage_for_as_many_rows_as_all_have_measured() -> None:
    tables = {Actor(1): [1.0, 1.5, 2.0], Actor(2): [0.5, 1.0, 4.0, 9.0]}
    assert slowest_seconds(tables) == [1.0, 1.5, 2.75, 4.0]


def test_runs_of_prompts_say_what_cached_positions_cost_by_row_and_in_a_tile(
    timed: dict[Actor, StageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TILES_S", 1e6)
    slow_down(monkeypatch, lambda run: len(run.rows) * run.rows[0].pos * (0.25 if len(run.rows) < 64 else 0.125))
    rows, past, past_in_tile = reading_costs(Group(LoopbackTransport()), timed, Actor(1), width=4, has_gpu=True)
    assert rows == pytest.approx([0.5 + 0.5 * size for size in range(1, 65)])
    assert (past, past_in_tile) == pytest.approx((0.25, 0.125))


def test_a_slow_host_tries_one_long_run_and_takes_attention_for_nothing(
    timed: dict[Actor, StageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TILES_S", 1.0)
    began = TimedStage.now
    rows, past, past_in_tile = reading_costs(Group(LoopbackTransport()), timed, Actor(1), width=4, has_gpu=True)
    assert rows == pytest.approx([0.5 + 0.5 * size for size in range(1, 65)])
    assert (past, past_in_tile) == (0.0, 0.0)
    assert TimedStage.now - began <= sum(0.5 + 0.5 * size for size in (1, 2, 4, 8, 16, 32, 64)) + 2.0


def test_runs_of_prompts_are_timed_by_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ranks share a core, a run that is interrupted costs no more than one that is not."""
    stage = ToyStage(0, is_last=True, vocabulary=8)
    monkeypatch.setattr(time, "thread_time", lambda: 0.0)
    monkeypatch.setattr(module, "_reading", lambda *args: ReadingCosts((args[2](),) * 7, 0.0, 0.0))
    assert reading_costs(Group(LoopbackTransport()), {Actor(1): stage}, Actor(1), 4, has_gpu=False)[0][0] == 0.0


def test_a_pipeline_within_one_rank_has_no_links() -> None:
    assert link_cost(Group(LoopbackTransport()), [0, 0, 0], row_bytes=64) == (0.0, 0.0)


def test_a_table_goes_on_in_a_straight_line() -> None:
    config = HeadConfig(num_stages=2, draft=None, context=8, sequences=2, rows_cost=(1.0, 2.0, 2.5))
    assert [config.cost(rows) for rows in (1, 3, 5)] == [1.0, 2.5, 4.0]
    flat = HeadConfig(num_stages=2, draft=None, context=8, sequences=2)
    assert flat.cost(9) == 1.0
