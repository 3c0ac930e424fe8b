"""What is promised of the text, and the reasons where nothing is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mpispec.compute.base import Arithmetic
from mpispec.core.ids import Actor
from mpispec.runtime import text_promise as module
from mpispec.runtime.exactness import Exactness
from mpispec.runtime.group import Group
from mpispec.runtime.plan import Plan, StagePlace
from mpispec.runtime.setup import JobOptions, Setup
from mpispec.runtime.text_promise import TextPromise, text_promise
from mpispec.transport.loopback import LoopbackTransport

pytestmark = pytest.mark.unit

SAME = Arithmetic("AVX2", True)


def summary(form: str, certified: bool = True) -> Any:
    """Return what a promise reads of a model: a file that is not there, or a folder that is."""
    path = Path(__file__).parent if form == "torch" else Path("model.gguf")
    return SimpleNamespace(path=path, certified=certified, architecture="newest")


def promised(
    monkeypatch: pytest.MonkeyPatch,
    others: tuple[Arithmetic, ...] = (SAME,),
    are_rows_exact: bool = True,
    certified: bool = True,
    backends: tuple[str, ...] = ("", "", ""),
    contexts: int = 1,
    **options: Any,
) -> TextPromise:
    """Return the promise of a job of this rank and others, a stage on each."""
    everyone = {
        Actor(rank + 1): (each.kernels, each.is_thread_exact, each.numbers) for rank, each in enumerate((SAME, *others))
    }
    monkeypatch.setattr(module, "merged", lambda *_: everyone)
    ranks = len(everyone)
    stages = tuple(StagePlace(rank, rank, rank, backend=backends[rank]) for rank in range(ranks))
    hosts = ("red", "blue", "green")[:ranks]
    plan = Plan(ranks, stages, None)
    model, other = summary("llama", certified), summary("torch")
    exactness: Exactness = "exact" if contexts > 1 else "throughput"
    setup = Setup(model, None, plan, hosts, (1,) * ranks, 64, other=other, exactness=exactness, contexts=contexts)
    return text_promise(Group(LoopbackTransport()), JobOptions(**options), setup, {Actor(1): SAME}, are_rows_exact)


def test_the_default_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    promise = promised(monkeypatch)
    assert promise.is_exact
    assert str(promise) == "that of the model alone"


@pytest.mark.parametrize(
    ("situation", "words"),
    [
        ({"wire": "q8"}, ["--wire q8"]),
        ({"parallel": 3}, ["--parallel 3 requests share cells", "--exactness exact"]),
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


@pytest.mark.parametrize("options", [{"contexts": 3}, {"backends": ("torch", "torch")}], ids=["own cells", "torch"])
def test_several_requests_are_exact_with_cells_of_their_own_or_where_their_order_does_not_matter(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    promise = promised(monkeypatch, parallel=3, **options)
    assert str(promise) == "that of the model alone, whatever the other requests"
    mode = "exact" if "contexts" in options else "throughput"
    assert promise.fields() == {"is_exact": True, "exactness": str(promise), "mode": mode}


def test_a_rank_without_layers_does_not_matter() -> None:
    setup = Setup(summary("llama"), None, Plan(1, (StagePlace(0, 0, 1),), 0), ("red",), (1,), 64)
    assert text_promise(Group(LoopbackTransport()), JobOptions(), setup, {Actor(1): SAME}, True).is_exact


# -- stages of two forms --------------------------------------------------------------------------------------------

TORCH = Arithmetic("torch 2.13", True)


def test_two_forms_are_not_alike_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    promise = promised(monkeypatch, others=(TORCH, SAME), backends=("", "torch", "llama"))
    assert promise.is_exact, "each backend is compared with itself alone"
    assert str(promise) == (
        "that of these stages with --strategy plain; either form alone rounds otherwise and may part from it"
    )


def numbers(*kinds: str) -> tuple[Arithmetic, ...]:
    return tuple(Arithmetic("torch 2.13", numbers=kind) for kind in kinds)


def test_ranks_in_several_kinds_of_numbers_make_a_text_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    others = numbers("float32", "bfloat16")
    promise = promised(monkeypatch, others=others, backends=("llama", "torch", "torch"))
    assert str(promise).startswith("that of these stages with --strategy plain; either form alone"), "it covers both"
    monkeypatch.setattr(f"{__name__}.SAME", numbers("float32")[0])
    promise = promised(monkeypatch, others=others, backends=("torch", "torch", "torch"))
    assert promise.is_exact
    assert str(promise) == (
        "that of these stages with --strategy plain, in float32 and bfloat16; the model in one of them may part from it"
    )
    uneven = promised(monkeypatch, others=others, backends=("torch", "torch", "torch"), are_rows_exact=False)
    assert str(uneven).startswith("may part from these stages alone, because a row of these weights")
    alike = promised(monkeypatch, others=numbers("float32"), backends=("torch", "torch"))
    assert str(alike) == "that of the model alone"


def test_torch_on_other_instructions_has_no_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    promise = promised(monkeypatch, others=(TORCH, Arithmetic("torch 2.6")), backends=("", "torch", "torch"))
    assert str(promise).endswith("blue and green compute with different instructions")


def test_hosts_of_one_form_are_compared_in_a_mixed_pipeline_too(monkeypatch: pytest.MonkeyPatch) -> None:
    promise = promised(monkeypatch, others=(TORCH, Arithmetic("AVX512", True)), backends=("", "torch", ""))
    assert str(promise).startswith("may part from these stages alone, because red and green compute")


def test_both_forms_are_asked_whether_they_are_certified(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not promised(monkeypatch, others=(TORCH,), backends=("", "torch"), certified=False).is_exact
