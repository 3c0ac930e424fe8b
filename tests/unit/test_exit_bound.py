"""Where an early exit pays, as far as it is arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from mpispec.sim.costs import exit_speedup
from research.agreement import agreement
from research.exits import Exit, conclusion, main
from tests.models import tiny

pytestmark = pytest.mark.unit


def seen(layers: int, share_of_work: float, agreed: int) -> Exit:
    """Make an exit that agreed with the target at `agreed` of 10 positions."""
    return Exit(layers, share_of_work, agreement([[True] * agreed + [False] * (10 - agreed)]))


@pytest.mark.parametrize(("acceptance_rate", "share", "bound"), [(0.0, 0.5, 1.0), (1.0, 0.25, 4.0), (0.8, 0.25, 2.5)])
def test_the_bound_is_the_law_with_the_exit_as_drafter(acceptance_rate: float, share: float, bound: float) -> None:
    assert exit_speedup(acceptance_rate, share) == pytest.approx(bound)


def test_the_conclusion_names_the_best_exit_or_none() -> None:
    assert conclusion([seen(10, 0.5, 0), seen(20, 0.8, 9)]).startswith("The best exit is after layer 20: at most 1.22")
    assert conclusion([seen(10, 0.5, 0), seen(28, 0.95, 9)]).startswith("No exit pays")


def test_a_step_beyond_the_model_is_one_sentence(tmp_path: Path) -> None:
    model = tiny.llama(tmp_path / "tiny.gguf")
    result = CliRunner().invoke(main, ["--model", str(model), "--step", "6"])
    assert "choose a smaller --step" in str(result.exception)
