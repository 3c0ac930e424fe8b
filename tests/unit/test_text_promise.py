"""What is promised of the text, and the reasons where nothing is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgpack
import pytest

from mpispec.compute.base import Arithmetic
from mpispec.runtime import text_promise as module
from mpispec.runtime.group import Group
from mpispec.runtime.plan import Plan, StagePlace
from mpispec.runtime.setup import JobOptions
from mpispec.runtime.text_promise import TextPromise, text_promise
from mpispec.transport.loopback import LoopbackTransport

pytestmark = pytest.mark.unit

SAME = Arithmetic("AVX2", True)


def promised(
    monkeypatch: pytest.MonkeyPatch,
    others: tuple[Arithmetic, ...] = (SAME,),
    are_rows_exact: bool = True,
    certified: bool = True,
    **options: Any,
) -> TextPromise:
    """Return the promise of a job of this rank and others, a stage on each but on the last, which is a draft's."""
    packed = [msgpack.packb([each.kernels, each.is_thread_exact]) for each in (SAME, *others)]
    monkeypatch.setattr(module, "gather", lambda *_: packed)
    ranks = len(packed)
    plan = Plan(ranks, tuple(StagePlace(rank, rank, rank) for rank in range(ranks)), None)
    model = SimpleNamespace(certified=certified, architecture="newest")
    setup: Any = SimpleNamespace(plan=plan, model=model, hosts=("red", "blue", "green")[:ranks])
    return text_promise(Group(LoopbackTransport()), JobOptions(**options), setup, SAME, are_rows_exact)


def test_the_default_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    promise = promised(monkeypatch)
    assert promise.is_exact
    assert str(promise) == "that of the model alone"


@pytest.mark.parametrize(
    ("situation", "words"),
    [
        ({"wire": "q8"}, ["--wire q8"]),
        ({"parallel": 3}, ["--parallel 3"]),
        ({"certified": False}, ["newest"]),
        ({"are_rows_exact": False}, ["several rows"]),
        ({"others": (Arithmetic("AVX2", False),), "are_rows_exact": False}, ["blue", "--threads 1"]),
        ({"others": (SAME, Arithmetic("AVX512", True))}, ["red and green", "--portable"]),
        ({"wire": "f16", "parallel": 2}, ["--wire f16", "--parallel 2"]),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else None,
)
def test_every_reason_is_named(situation: dict[str, Any], words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    promise = promised(monkeypatch, **situation)
    assert not promise.is_exact
    assert len(promise.reasons) == len(words) or len(promise.reasons) == 1
    assert str(promise).startswith("may part from the model alone, because ")
    assert all(word in str(promise) for word in words)


def test_a_rank_without_layers_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = [msgpack.packb(["AVX2", True]), msgpack.packb(["", True])]
    monkeypatch.setattr(module, "gather", lambda *_: packed)
    plan = Plan(2, (StagePlace(0, 0, 1),), 1)
    setup: Any = SimpleNamespace(plan=plan, model=SimpleNamespace(certified=True), hosts=("red", "blue"))
    assert text_promise(Group(LoopbackTransport()), JobOptions(), setup, SAME, True).is_exact
