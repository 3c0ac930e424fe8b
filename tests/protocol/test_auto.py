"""`auto` against fixed strategies in virtual time, with costs that once misled it."""

from __future__ import annotations

import pytest

from mpispec.sim.costs import ROWS_FACTORS
from mpispec.sim.script import Acceptance
from mpispec.sim.study import Study, compare

pytestmark = pytest.mark.protocol


@pytest.mark.parametrize(("num_stages", "acceptance_rate", "draft_s"), [(4, 0.9, 0.010), (7, 0.8, 0.018)])
def test_auto_keeps_the_pipeline_full_where_two_rows_cost_half_as_much_again_and_the_draft_is_late(
    num_stages: int, acceptance_rate: float, draft_s: float
) -> None:
    acceptance = Acceptance((acceptance_rate,))
    study = Study(num_stages, 0.010, draft_s, rows_factor=ROWS_FACTORS["cpu4"], acceptance=acceptance, num_tokens=100)
    speed = {found.strategy: found.speedup_over_plain for found in compare(("pipeinfer", "specpipe", "auto"), study)}
    assert speed["pipeinfer"] > speed["specpipe"]
    assert speed["auto"] >= 0.97 * speed["pipeinfer"]


def test_auto_soon_gives_up_a_draft_that_is_confident_and_never_right() -> None:
    acceptance = Acceptance((0.0,), rescue=0.0, promised=0.95)
    study = Study(7, 0.010, 0.002, rows_factor=ROWS_FACTORS["cpu4"], acceptance=acceptance, num_tokens=64)
    fixed, auto = compare(("pipeinfer", "auto"), study)
    assert auto.speedup_over_plain == pytest.approx(1.0)
    assert auto.wasted_rows < 64 < fixed.wasted_rows
