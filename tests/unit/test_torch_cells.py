"""The cells of a torch stage over random cache operations, against a dictionary; torch itself is not needed."""

from __future__ import annotations

import random

import numpy as np
import pytest

from mpispec.compute.base import ComputeError
from mpispec.compute.torch_cells import Cells, padded
from mpispec.core.ids import Pos, RunId, SeqId
from mpispec.core.messages import CacheOp, CacheOpKind, Run
from tests.stages import drop, rows, share

pytestmark = pytest.mark.unit


def run(start: int, stop: int, seq: int = 0) -> Run:
    return Run(RunId(0), tuple(rows([0] * (stop - start), start, seq)))


@pytest.mark.parametrize("seed", range(20))
def test_a_path_is_what_a_dictionary_of_positions_says(seed: int) -> None:
    rng = random.Random(seed)
    cells = Cells(64, 4)
    known: dict[int, dict[int, int]] = {seq: {} for seq in range(4)}
    for _ in range(60):
        src, dst = rng.sample(range(4), 2)
        length = len(known[src])
        if rng.random() < 0.5 and cells.num_used < 60:
            grown = run(length, length + rng.randint(1, 3), src)
            placed = cells.place(grown)
            known[src].update(zip((row.pos for row in grown.rows), placed.tolist(), strict=True))
        elif rng.random() < 0.5:
            cells.apply(drop(dst))
            cells.apply(share(src, dst, 0, length))
            known[dst] = dict(known[src])
        else:
            keep = rng.randint(0, length)
            cells.apply(drop(src, keep))
            known[src] = {pos: cell for pos, cell in known[src].items() if pos < keep}
        for seq, path in known.items():
            if path:
                found = cells.paths(run(len(path) - 1, len(path), seq), 64)[0]
                assert found[: len(path)].tolist() == [path[pos] for pos in range(len(path))]
        assert cells.num_used == len({cell for path in known.values() for cell in path.values()})


def test_gaps_and_a_full_cache_are_errors() -> None:
    cells = Cells(4, 2)
    cells.place(run(0, 2))
    with pytest.raises(ComputeError, match="cache of 4 cells is full"):
        cells.place(run(2, 5))
    cells.place(run(3, 4))
    with pytest.raises(ComputeError, match="one cell for each position"):
        cells.paths(run(3, 4), 8)


def test_gathering_and_the_cells_of_the_dead_change_no_path() -> None:
    """What stages on llama.cpp ask for, since they sum in the order of cells (ADR 0034)."""
    cells = Cells(8, 3)
    cells.place(run(0, 2))
    cells.place(run(2, 4, seq=1))  # a draft token and its child, which die behind a sequence of their own
    cells.apply(share(1, 2, 2))
    cells.apply(drop(1))
    cells.place(run(2, 3))
    before = cells.paths(run(2, 3), 4)
    assert before[0, :3].tolist() == [0, 1, 4]
    cells.apply(drop(2))
    cells.apply(CacheOp(CacheOpKind.GATHER, SeqId(0), SeqId(0), Pos(0), -1))
    assert np.array_equal(cells.paths(run(2, 3), 4), before)
    assert cells.num_used == 3


def test_rows_are_filled_up_with_the_last() -> None:
    assert np.array_equal(padded([3, 5], 4), [3, 5, 5, 5])
