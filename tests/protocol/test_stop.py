"""Ending the program drains the pipeline first: no run is left unanswered, no rank is left waiting."""

from __future__ import annotations

import pytest

from tests.protocol.playing import assert_everyone_quits
from tests.protocol.scenario import build, draw

pytestmark = pytest.mark.protocol


@pytest.mark.parametrize("seed", range(150))
def test_everyone_quits_whenever_the_program_ends(seed: int) -> None:
    scenario = draw(seed)
    assert_everyone_quits(scenario, build(scenario))
