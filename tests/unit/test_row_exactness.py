"""Whether rows are found to depend on their company, on stages of which it is known."""

from __future__ import annotations

import numpy as np
import pytest

from mpispec.compute.base import Arithmetic, Cancelled, Floats
from mpispec.compute.toy import WIDTH, ToyStage
from mpispec.core.ids import Actor
from mpispec.core.messages import Run
from mpispec.runtime.group import Group
from mpispec.runtime.trial import are_rows_exact
from mpispec.transport.loopback import LoopbackTransport

pytestmark = pytest.mark.unit


EXACT = {Actor(1): Arithmetic(), Actor(2): Arithmetic()}


class InBlocks(ToyStage):
    """Changes the last bits of rows from `first` on in runs of at least `block` rows."""

    def __init__(self, layer: int, is_last: bool, block: int, first: int = 0) -> None:
        super().__init__(layer, is_last, vocabulary=8)
        self._block, self._first = block, first

    def forward(self, run: Run, activations: Floats | None, cancelled: Cancelled) -> Floats | None:
        output = super().forward(run, activations, cancelled)
        if output is not None and len(run.rows) >= self._block:
            output[self._first :] = np.nextafter(output[self._first :], np.inf, dtype=np.float32)
        return output


@pytest.mark.parametrize(("blocks", "expected"), [((99, 99), True), ((99, 2), False), ((8, 99), False)])
def test_one_stage_that_computes_in_blocks_is_enough(blocks: tuple[int, int], expected: bool) -> None:
    stages = {Actor(index + 1): InBlocks(index, index == 1, block) for index, block in enumerate(blocks)}
    assert are_rows_exact(Group(LoopbackTransport()), stages, Actor(1), WIDTH, EXACT) is expected


@pytest.mark.parametrize(("block", "first"), [(5, 4), (6, 5), (32, 0)], ids=["what is left over", "last", "long runs"])
def test_every_row_of_a_run_is_compared(block: int, first: int) -> None:
    stage = InBlocks(0, is_last=False, block=block, first=first)
    assert not are_rows_exact(Group(LoopbackTransport()), {Actor(1): stage}, Actor(1), WIDTH, EXACT)


def test_rows_are_inexact_where_threads_change_bits() -> None:
    stage = ToyStage(0, is_last=False, vocabulary=8)
    split = {Actor(1): Arithmetic(is_thread_exact=False)}
    assert not are_rows_exact(Group(LoopbackTransport()), {Actor(1): stage}, Actor(1), WIDTH, split)


def test_a_trial_leaves_nothing_in_the_cache() -> None:
    stage = ToyStage(0, is_last=False, vocabulary=8)
    group = Group(LoopbackTransport())
    assert are_rows_exact(group, {Actor(1): stage}, Actor(1), WIDTH, EXACT)
    assert are_rows_exact(group, {Actor(1): stage}, Actor(1), WIDTH, EXACT)
