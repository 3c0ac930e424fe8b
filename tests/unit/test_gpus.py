"""Which ranks keep layers on a GPU, and what is said where none can."""

from __future__ import annotations

import msgpack
import pytest

from mpispec.runtime import gpus
from mpispec.runtime.gpus import gpu_layers
from mpispec.runtime.group import Group, JobError
from mpispec.transport.loopback import LoopbackTransport

pytestmark = pytest.mark.unit

Known = tuple[str, bool, bool]
"""Host of a rank, whether it computes with llama.cpp, whether that finds a GPU."""


def found(monkeypatch: pytest.MonkeyPatch, wanted: int, *ranks: Known) -> tuple[int, ...]:
    monkeypatch.setattr(gpus, "gather", lambda *_: [msgpack.packb(rank) for rank in ranks])
    return gpu_layers(Group(LoopbackTransport()), wanted, uses_llama=True)


def test_ranks_with_a_gpu_keep_layers_there_and_others_compute_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = ("red", True, True), ("blue", True, False), ("green", False, True)
    assert found(monkeypatch, -1, *ranks) == (-1, 0, 0)
    assert found(monkeypatch, 7, *ranks) == (7, 0, 0)


def test_nobody_is_asked_where_none_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "finds_gpu", lambda: pytest.fail("llama.cpp was loaded"))
    assert gpu_layers(Group(LoopbackTransport()), 0, uses_llama=True) == (0,)


@pytest.mark.parametrize(
    ("ranks", "where"),
    [
        ([("red", True, False), ("blue", True, False), ("green", False, True)], "on blue, red;"),
        ([("green", False, True)], "on any rank that it computes on;"),
    ],
)
def test_no_gpu_at_all_is_a_sentence(ranks: list[Known], where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(JobError, match=f"finds no GPU {where} build it for GPUs with scripts/setup --gpu cuda"):
        found(monkeypatch, -1, *ranks)
