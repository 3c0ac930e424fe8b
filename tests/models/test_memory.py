"""A stage between others holds its layers and its cache, not the model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mpispec.compute.llama_traits import SPARE_CELLS
from mpispec.models import registry

pytestmark = pytest.mark.models

SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np, psutil
from mpispec.compute.base import StageSize
from mpispec.compute.llama_stage import LlamaStage
from mpispec.core.messages import Row, Run
from mpispec.models import cut
process = psutil.Process()
before = process.memory_info().rss
part = cut.part(Path(sys.argv[1]), range(10, 20))
size = StageSize(context=2048, sequences=16, threads=1, most_rows=64)
stage = LlamaStage(part, size, first=False, last=False, n_layers=10)
run = Run(0, [Row(0, pos, pos - 1, 0, pos, 0, True) for pos in range(64)])
stage.forward(run, np.ones((64, stage.width), np.float32), bool)
print(json.dumps({"grown": process.memory_info().rss - before, "all": process.memory_info().rss}))
"""


def test_resident_memory_is_bounded_by_what_is_held(default_model: Path, part_cache: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(default_model)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)
    layers = sum(registry.inspect(default_model).layer_bytes[10:20])
    cache = (2048 + SPARE_CELLS) * 10 * 2 * 192 * 2
    bound = layers + cache + 150 * 10**6
    assert found["grown"] <= bound
    assert found["all"] <= bound, "with the interpreter and its libraries"
