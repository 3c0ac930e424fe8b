"""Whether this build of llama.cpp computes on this CPU: `python -m mpispec.compute.check_build`.

The default model reads 40 tokens and writes 8, which have to be the ones that it writes everywhere; then a run of
several rows has to have the bits of single rows. Set-up asks this of each build in a process of its own, which a build
that is no good for its CPU may end with a signal.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

from mpispec.compute.base import ComputeError, Floats, StageSize
from mpispec.core.ids import NodeId, Pos, RequestId, RunId, SeqId, Token
from mpispec.core.messages import CacheOp, CacheOpKind, Row, Run
from mpispec.models import default, registry
from mpispec.models.errors import ModelError

if TYPE_CHECKING:
    from mpispec.compute.llama_stage import LlamaStage

WRONG = 3
"""Exit code of a build that computes something else."""
TEXT = "one two three four five six seven eight nine ten " * 5
"""More than 40 tokens, which the default model goes on with as anyone would."""
READ, WRITTEN = 40, 8
_SEQUENCE = SeqId(0)


class WrongNumbersError(Exception):
    """The build computes something else than it should."""


def check() -> str:
    """Return what was computed. Raises WrongNumbersError, ComputeError, ModelError (what could not be loaded)."""
    from mpispec.compute.llama_stage import LlamaStage  # noqa: PLC0415  a ModelError on a CPU that it is not for
    from mpispec.compute.llama_vocabulary import Vocabulary  # noqa: PLC0415

    path = default.resolve(None)
    vocabulary = Vocabulary(path)
    tokens = vocabulary.tokenize(TEXT, special=False)
    prompt, expected = tokens[:READ], tokens[READ : READ + WRITTEN]
    stage = LlamaStage(
        path,
        # Several threads would wait for each other wherever something else runs.
        StageSize(context=READ + WRITTEN, sequences=1, threads=1, most_rows=READ),
        first=True,
        last=True,
        n_layers=registry.inspect(path).layers,
    )
    try:
        single, written = _write(stage, prompt)
        if written != expected:
            raise WrongNumbersError(f"after {READ} tokens it writes {written} instead of {expected}")
        stage.apply([CacheOp(CacheOpKind.DROP, _SEQUENCE, _SEQUENCE, Pos(READ), Pos(-1))])
        together = _compute(stage, expected, READ, WRITTEN)
        if not np.array_equal(together, single):
            raise WrongNumbersError(f"{WRITTEN} rows at once have other bits than one by one")
    finally:
        stage.close()
        vocabulary.close()
    return f"{READ} tokens read, {WRITTEN} written, {WRITTEN} rows at once with the bits of single ones"


def _write(stage: LlamaStage, prompt: list[int]) -> tuple[Floats, list[int]]:
    """Write greedily after a prompt; return the logits (written, vocabulary) of the rows written, and their tokens."""
    newest = int(_compute(stage, prompt, 0, 1)[0].argmax())
    logits, written = [], []
    for pos in range(READ, READ + WRITTEN):
        written.append(newest)
        logits.append(_compute(stage, [newest], pos, 1)[0])
        newest = int(logits[-1].argmax())
    return np.stack(logits), written


def _compute(stage: LlamaStage, tokens: list[int], start: int, deciding: int) -> Floats:
    """Compute tokens as one run from position `start` on; return the logits of the last `deciding` of them."""
    rows = [
        Row(RequestId(0), NodeId(pos), NodeId(pos - 1), Token(token), Pos(pos), _SEQUENCE, False)
        for pos, token in enumerate(tokens, start)
    ]
    rows[-deciding:] = [row._replace(decide=True) for row in rows[-deciding:]]
    logits = stage.forward(Run(RunId(0), tuple(rows)), None, bool)
    assert logits is not None  # nothing cancels it
    return logits


def main() -> int:
    """Say what was found in one line; return 0, `WRONG`, or 1 where nothing could be computed."""
    try:
        sys.stdout.write(f"llama.cpp computes: {check()}\n")
    except (WrongNumbersError, ComputeError) as wrong:
        return _complain(wrong)
    except ModelError as error:
        if isinstance(error.__context__, ComputeError):  # of the row that a stage computes to warm up
            return _complain(error)
        sys.stdout.write(f"llama.cpp could not be checked: {error}\n")
        return 1
    return 0


def _complain(wrong: Exception) -> int:
    sys.stdout.write(f"llama.cpp computes wrong numbers: {wrong}\n")
    return WRONG


if __name__ == "__main__":
    sys.exit(main())
