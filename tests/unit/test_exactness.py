"""What a job of several requests keeps to, and how many caches that takes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mpispec.runtime.exactness import chosen, num_contexts

pytestmark = pytest.mark.unit

GGUF: Any = SimpleNamespace(path=Path("model.gguf"))
FOLDER: Any = SimpleNamespace(path=Path(__file__).parent)


@pytest.mark.parametrize(
    ("parallel", "num_stages", "expected"),
    [(1, 1, "exact"), (4, 1, "exact"), (5, 1, "throughput"), (8, 8, "exact"), (9, 8, "throughput")],
)
def test_few_requests_are_exact_and_as_many_as_fill_the_stages(parallel: int, num_stages: int, expected: str) -> None:
    assert chosen("auto", parallel, num_stages) == expected


@pytest.mark.parametrize("asked", ["exact", "throughput"])
def test_what_is_asked_is_kept_to(asked: str) -> None:
    assert chosen(asked, 64, 1) == chosen(asked, 1, 8) == asked


def test_requests_have_caches_of_their_own_where_the_order_of_cells_matters() -> None:
    assert num_contexts("exact", 3, [GGUF]) == num_contexts("exact", 3, [FOLDER, GGUF]) == 3
    assert num_contexts("exact", 3, [FOLDER]) == 1
    assert num_contexts("throughput", 3, [GGUF]) == 1
