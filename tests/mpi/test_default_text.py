"""What people type without any option writes llama.cpp's own text; also with a llama.cpp that is not changed by us."""

from __future__ import annotations

import json

import pytest

from research.prompts import PROMPTS
from tests.mpi.program import MPISPEC, Program

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(300)]

TOKENS = 24


@pytest.mark.parametrize("ranks", [0, 2])
@pytest.mark.parametrize("index", [2, 7])
def test_the_default_command_writes_llama_cpps_text(ranks: int, index: int, reference: list[list[int]]) -> None:
    with Program(ranks, [*MPISPEC, "generate", "--prompt", PROMPTS[index], "-n", str(TOKENS), "--json"]) as program:
        # Threads of one compute wait for each other, so whatever else runs makes this slow.
        assert program.wait(250.0) == 0, program.stderr
        assert json.loads(program.stdout)["tokens"] == reference[index][:TOKENS]
