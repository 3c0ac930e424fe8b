"""What the first stage's times say about the costs of rows."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mpispec.core.config import HeadConfig
from mpispec.core.ids import NodeId, Pos, Token
from mpispec.core.row_times import RowTimes, interpolated
from mpispec.core.tree import Node, NodeState

pytestmark = pytest.mark.unit


def nodes(count: int, state: NodeState = NodeState.DISPATCHED) -> list[Node]:
    """Return the rows of a run."""
    return [
        Node(NodeId(index), None, NodeId(index - 1), Token(0), Pos(index), 1.0, 1.0, state) for index in range(count)
    ]


def taught(runs: Sequence[tuple[list[Node], float]]) -> RowTimes:
    """Return times that have seen these runs with their seconds, one after the other; the table says 1.5 for 2 rows."""
    times = RowTimes(lambda num_rows: (num_rows + 1) / 2)
    now = 100.0
    for run, seconds in runs:
        times.began(run, now)
        now += seconds
    times.ended(now)
    return times


def test_a_table_is_straight_between_what_was_measured() -> None:
    assert interpolated({1: 1.0, 2: 2.0, 4: 3.0}) == (1.0, 2.0, 2.5, 3.0)


def test_a_table_that_was_right_is_not_corrected() -> None:
    times = taught([(nodes(1), 0.01), (nodes(2), 0.015), (nodes(4), 0.025)] * 40)
    assert [times.correction(rows) for rows in (1, 2, 4, 8)] == pytest.approx([1.0] * 4)


def test_rows_more_expensive_than_measured_are_noticed_and_one_run_proves_little() -> None:
    assert taught([(nodes(1), 0.01), (nodes(4), 0.05)]).correction(4) < 1.15
    times = taught([(nodes(1), 0.01), (nodes(4), 0.05)] * 60)
    assert times.correction(3) == times.correction(4) == pytest.approx(2.0, abs=0.25)
    assert times.correction(2) == 1.0, "nothing was seen of two rows"


def test_one_run_that_took_for_ever_does_not_count_for_ever() -> None:
    usual = [(nodes(1), 0.01), (nodes(2), 0.015)] * 20
    assert taught([*usual, (nodes(2), 60.0)]).correction(2) < 1.2


def test_runs_that_died_and_prompts_say_nothing() -> None:
    usual = [(nodes(1), 0.01)] * 20
    assert taught([*usual, *[(nodes(2, NodeState.DEAD), 9.0), ([], 9.0)] * 20]).correction(2) == 1.0


def test_a_correction_is_of_the_compute_and_not_of_links() -> None:
    config = HeadConfig(2, draft=None, context=8, sequences=2, rows_cost=(1.0, 1.5), link_row=1.0)
    assert [config.cost(2), config.cost(2, 2.0)] == [2.0, 3.0]
    assert config.passing(2, 2.0) - config.passing(2) == pytest.approx(2 * 1.5)
