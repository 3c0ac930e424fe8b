"""Whether rows are found to depend on their company, on stages of which it is known."""

from __future__ import annotations

import numpy as np
import pytest

from mpispec.compute.base import Cancelled, Floats
from mpispec.compute.toy import WIDTH, ToyStage
from mpispec.core.ids import Actor
from mpispec.core.messages import Run
from mpispec.runtime.group import Group
from mpispec.runtime.row_exactness import are_rows_exact
from mpispec.transport.loopback import LoopbackTransport

pytestmark = pytest.mark.unit


class InBlocks(ToyStage):
    """Sums in another order where a run has at least so many rows."""

    def __init__(self, layer: int, is_last: bool, block: int) -> None:
        super().__init__(layer, is_last, vocabulary=8)
        self._block = block

    def forward(self, run: Run, activations: Floats | None, cancelled: Cancelled) -> Floats | None:
        output = super().forward(run, activations, cancelled)
        if output is not None and len(run.rows) >= self._block:
            return np.nextafter(output, np.inf, dtype=np.float32)
        return output


@pytest.mark.parametrize(("blocks", "expected"), [((99, 99), True), ((99, 2), False), ((8, 99), False)])
def test_one_stage_that_computes_in_blocks_is_enough(blocks: tuple[int, int], expected: bool) -> None:
    stages = {Actor(index + 1): InBlocks(index, index == 1, block) for index, block in enumerate(blocks)}
    assert are_rows_exact(Group(LoopbackTransport()), stages, Actor(1), WIDTH) is expected


def test_a_trial_leaves_nothing_in_the_cache() -> None:
    stage = ToyStage(0, is_last=False, vocabulary=8)
    group = Group(LoopbackTransport())
    assert are_rows_exact(group, {Actor(1): stage}, Actor(1), WIDTH)
    assert are_rows_exact(group, {Actor(1): stage}, Actor(1), WIDTH)
