"""Whole answers as people get them: on several threads, beyond 300 positions, and on K-quants (ADR 0029, 0030)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from mpispec.compute.llama_quantise import quantise
from mpispec.models.pad import pad
from mpispec.models.widen import widen
from tests.mpi.jobs import TREES, WITH_DRAFT, WITHOUT_DRAFT, answers, request, tokens_of
from tests.mpi.reference import greedy

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(300)]

BEYOND = 290
"""Tokens of a prompt; from 256 positions on llama.cpp as it comes sums attention by threads."""
FEW_TOKENS = 24
LONG_TOKENS = 400
LADDER = ("pipespec", "ngram")
WAYS = (*WITHOUT_DRAFT, LADDER, *WITH_DRAFT, *TREES)


@pytest.fixture(scope="module")
def k_quants(default_model: Path) -> Iterator[Path]:
    """Return the default model as Q4_K_M, its rows padded so that K-quants fit them."""
    with TemporaryDirectory(prefix="mpispec-k-quants-") as folder:
        floats, padded, stored = (Path(folder, f"{name}.gguf") for name in ("floats", "padded", "q4_k_m"))
        widen(default_model, floats, "float32")
        pad(floats, padded, "padded")
        floats.unlink()
        quantise(padded, stored, "q4_k_m", 1)
        padded.unlink()
        yield stored


@pytest.fixture(scope="module")
def long_prompts(prompts: list[list[int]]) -> list[list[int]]:
    """Return two prompts whose answers are written beyond 300 positions."""
    text = [token for prompt in prompts for token in prompt]
    text = text * (1 + BEYOND // len(text))
    return [[*text[:BEYOND], *prompts[index]] for index in (2, 7)]


def assert_equal_to_llama_cpps(
    ways: Sequence[tuple[str, str]],
    prompts: list[list[int]],
    ranks: int,
    length: int,
    model: Path,
    timeout: float = 250.0,
    **options: Any,
) -> None:
    """Answer the prompts in every way, in one job."""
    expected = greedy(model, prompts, length, frozenset())
    wanted = [request(prompt, length, *way) for way in ways for prompt in prompts]
    found = answers(ranks, wanted, timeout=timeout, model=str(model), **options)
    for place, way in enumerate(ways):
        assert tokens_of(found[place * len(prompts) :][: len(prompts)]) == expected, way


def test_two_threads_write_llama_cpps_text(default_model: Path, long_prompts: list[list[int]]) -> None:
    assert_equal_to_llama_cpps((*WITHOUT_DRAFT, LADDER), long_prompts, 1, FEW_TOKENS, default_model, threads=2)


def test_k_quants_write_llama_cpps_text(k_quants: Path, long_prompts: list[list[int]], draft: Path) -> None:
    assert_equal_to_llama_cpps(WAYS, long_prompts, 4, FEW_TOKENS, k_quants, draft=str(draft))


def test_the_second_turn_is_that_of_a_fresh_start_on_k_quants(k_quants: Path, prompts: list[list[int]]) -> None:
    first, other = prompts[2], prompts[7]
    (answer,) = greedy(k_quants, [first], FEW_TOKENS, frozenset())
    second = [*first, *answer, *other]
    expected = [answer, *greedy(k_quants, [second], FEW_TOKENS, frozenset())]
    turns = [request(prompt, FEW_TOKENS, "auto", "ngram") for prompt in (first, second)]
    found = answers(3, turns, model=str(k_quants))
    assert tokens_of(found) == expected
    assert found[1]["report"]["speculation"]["runs"] < len(second), "nothing of the first turn was kept"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_two_threads_write_llama_cpps_text_at_length(
    ranks: int, default_model: Path, prompts: list[list[int]], draft: Path
) -> None:
    options = {"threads": 2, "draft": str(draft)}
    assert_equal_to_llama_cpps(WAYS, prompts[:10], ranks, LONG_TOKENS, default_model, timeout=3500.0, **options)
