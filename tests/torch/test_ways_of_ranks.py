"""Ranks that compute with torch in different ways, as the layout says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mpispec.compute.base import StageSize, TorchOptions
from mpispec.compute.torch_backend import TILE, TorchBackend
from mpispec.compute.torch_stage import open_stage
from tests.mpi.jobs import answers, request, tokens_of
from tests.mpi.program import MPISPEC, Program
from tests.stages import Pipeline, rows

pytestmark = [pytest.mark.torch, pytest.mark.timeout(300)]

LAYOUT = "0:0-1,1:torch/bfloat16:2-3"
PROMPTS = (12, 92, 164)
"""After which half of the layers in bfloat16 move a token."""
NUM_TOKENS = 6


def sized(**chosen: str) -> StageSize:
    return StageSize(context=256, sequences=8, threads=1, most_rows=TILE, torch=TorchOptions(**chosen))  # type: ignore[arg-type]


def written(folder: Path, numbers: str, prompt: int) -> list[int]:
    """Return what stages in this process write, a row at a time: the first in float32, the second in other numbers."""
    parts = ((range(2), "float32"), (range(2, 4), numbers))
    pipeline = Pipeline([open_stage(folder, layers, 4, sized(dtype=dtype)) for layers, dtype in parts])
    text = [prompt]
    for pos in range(NUM_TOKENS):
        text.append(int(np.argmax(pipeline.run(rows(text[-1:], pos))[0])))
    return text[1:]


def test_a_rank_computes_in_the_numbers_that_the_layout_names(small: Path) -> None:
    asked = [request([prompt], NUM_TOKENS, "plain", "none") for prompt in PROMPTS]
    found = tokens_of(answers(2, asked, model=str(small), layout=LAYOUT))
    assert found == [written(small, "bfloat16", prompt) for prompt in PROMPTS]
    assert found != [written(small, "float32", prompt) for prompt in PROMPTS]


def test_the_text_is_promised_to_be_that_of_these_stages_at_most(small: Path) -> None:
    job = ["generate", "--model", str(small), "--layout", LAYOUT, "--prompt", "H", "-n", "2", "--json"]
    with Program(2, [*MPISPEC, *job]) as program:
        assert program.wait() == 0, program.stderr
        promise = json.loads(program.stdout)["exactness"]
        assert "these stages" in promise and "the model alone" not in promise


def test_what_is_computed_in_is_declared() -> None:
    declared = [TorchBackend().arithmetic(sized(device="cpu", **chosen)).numbers for chosen in CHOICES]
    assert declared == ["float32", "bfloat16", "float32 with int8 weights"]


CHOICES: tuple[dict[str, str], ...] = ({}, {"dtype": "bfloat16"}, {"quantization": "int8"})
