"""Ending the program drains the pipeline first: no run is left unanswered, no rank is left waiting."""

from __future__ import annotations

import pytest

from mpispec.core.events import StopRequested
from tests.protocol.scenario import build, draw

pytestmark = pytest.mark.protocol


@pytest.mark.parametrize("seed", range(150))
def test_everyone_quits_whenever_the_program_ends(seed: int) -> None:
    scenario = draw(seed)
    cluster = build(scenario)
    cluster.at(seed % 15 * 0.5, StopRequested())
    cluster.run()
    assert cluster.quit == cluster.actors
    for index, answer in cluster.answers.items():
        assert answer.finish is not None
        assert answer.tokens == scenario.text(index)[: len(answer.tokens)]
