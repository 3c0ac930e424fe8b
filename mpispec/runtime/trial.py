"""Runs that try a stage before the first request: how long they take, and whether a row's bits depend on its run."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mpispec.compute.base import Arithmetic, Floats, StageModel
from mpispec.core.ids import Actor, NodeId, Pos, RequestId, RunId, SeqId, Token
from mpispec.core.messages import CacheOp, CacheOpKind, Row, Run
from mpispec.runtime.group import Group, gather, merged


class Trial(NamedTuple):
    """What a run came to."""

    output: Floats
    seconds: float


def trial(stage: StageModel, size: int, activations: Floats | None, past: int = 0, is_kept: bool = False) -> Trial:
    """Compute a run of `size` deciding rows that follow `past` cached positions of sequence 0.

    Its cells are dropped unless it `is_kept`. `activations` is float32 [size, width], None on the first stage.
    """
    found = timed(stage, [row_of(0, pos) for pos in range(past, past + size)], activations)
    if not is_kept:
        stage.apply([CacheOp(CacheOpKind.DROP, SeqId(0), SeqId(0), Pos(past), -1)])
    return found


def row_of(seq: int, pos: int) -> Row:
    """Return a deciding row of a sequence; its request has the same number."""
    return Row(RequestId(seq), NodeId(pos), NodeId(pos - 1), Token(0), Pos(pos), SeqId(seq), True)


def timed(stage: StageModel, rows: Sequence[Row], activations: Floats | None) -> Trial:
    """Compute a run, whose cells stay; `activations` as for `trial`."""
    run = Run(RunId(0), tuple(rows))
    start = time.monotonic()
    output = stage.forward(run, activations, bool)
    elapsed = time.monotonic() - start
    assert output is not None, "nobody cancels a trial"
    return Trial(output, elapsed)


def paces(
    group: Group, models: Mapping[Actor, StageModel], inputs: Mapping[Actor, Floats | None], who: set[Actor], s: float
) -> dict[Actor, float]:
    """Let some actors of all ranks compute for `s` seconds at once; return the mean seconds of a run. Collective."""
    found: dict[Actor, float] = {}

    def measure(actor: Actor) -> None:
        start, runs = time.monotonic(), 0
        while runs < 2 or time.monotonic() - start < s:
            trial(models[actor], 1, inputs[actor])
            runs += 1
        found[actor] = (time.monotonic() - start) / runs

    gather(group, b"")  # all begin together
    crew = [threading.Thread(target=measure, args=(actor,)) for actor in models if actor in who]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    return merged(group, found)


_NUM_ROWS = 8
"""Rows whose bits are compared."""
_CUTS = ((8,), (2, 6), (3, 5))
"""Sizes of the runs that are compared with runs of one row: kernels take rows by two, four or eight, and what is
left over in another way."""
_LONG = 32
"""Rows of a longer run that begins with them, as the runs of a prompt."""


def are_rows_exact(
    group: Group,
    stages: Mapping[Actor, StageModel],
    first: Actor,
    width: int,
    arithmetic: Mapping[Actor, Arithmetic],
) -> bool:
    """Return whether a row has the same bits in runs of any size below a tile, on the stages of all ranks. Collective.

    That differs with the format of the weights, the processor and the build of llama.cpp, so the kernels themselves are
    asked (law 6, ADR 0024): those for several rows may sum in another order than those for one.

    `stages` and `arithmetic` are those of this rank, `first` is the one that takes tokens instead of activations of
    `width` numbers. Where threads change bits they do so in runs of one row alone, so rows are not exact there either.
    """
    mine = {
        actor: arithmetic[actor].is_thread_exact and _is_exact(stage, actor == first, width)
        for actor, stage in stages.items()
    }
    return all(merged(group, mine).values())


def _is_exact(stage: StageModel, is_first: bool, width: int) -> bool:
    noise = None if is_first else np.random.default_rng(0).standard_normal((_LONG, width), np.float32)
    alone = _in_runs(stage, noise, (1,) * _NUM_ROWS)
    others = (_in_runs(stage, noise, cut) for cut in (*_CUTS, (_LONG,)))
    return all(np.array_equal(rows, alone) for rows in others)


def _in_runs(stage: StageModel, activations: Floats | None, sizes: tuple[int, ...]) -> Floats:
    """Return the output of the first `_NUM_ROWS` rows, computed in runs of these sizes; leave no cells."""
    outputs = list(_outputs(stage, activations, sizes))
    stage.apply([CacheOp(CacheOpKind.DROP, SeqId(0), SeqId(0), Pos(0), -1)])
    return np.concatenate(outputs)[:_NUM_ROWS]


def _outputs(stage: StageModel, activations: Floats | None, sizes: tuple[int, ...]) -> Iterator[Floats]:
    start = 0
    for size in sizes:
        rows = None if activations is None else activations[start : start + size]
        yield trial(stage, size, rows, past=start, is_kept=True).output
        start += size
