"""Whole answers as people get them: on several threads, beyond 300 positions, and on K-quants (ADR 0029, 0030)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from research.llama_quantise import quantise
from research.pad import pad
from research.widen import widen
from tests.mpi.jobs import TREES, WITH_DRAFT, WITHOUT_DRAFT, answers, tokens_of
from tests.mpi.jobs import request as wanted_of
from tests.mpi.reference import greedy

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(300)]

BEYOND = 290
"""Tokens of a prompt; from 256 positions on llama.cpp as it comes sums attention by threads."""
FEW_TOKENS = 24
LONG_TOKENS = 400
PIPESPEC = ("pipespec", "ngram")
WAYS = (*WITHOUT_DRAFT, PIPESPEC, *WITH_DRAFT, *TREES)
EACH_STRATEGY = (WITHOUT_DRAFT[0], PIPESPEC, *WITH_DRAFT[:3], *TREES)


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
def halves(default_model: Path) -> Iterator[Path]:
    """Return the default model as F16."""
    with TemporaryDirectory(prefix="mpispec-f16-") as folder:
        stored = Path(folder, "f16.gguf")
        quantise(default_model, stored, "f16", 1)
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
    wanted = [wanted_of(prompt, length, *way) for way in ways for prompt in prompts]
    found = answers(ranks, wanted, timeout=timeout, model=str(model), **options)
    for place, way in enumerate(ways):
        assert tokens_of(found[place * len(prompts) :][: len(prompts)]) == expected, way


def test_two_threads_write_llama_cpps_text(default_model: Path, long_prompts: list[list[int]]) -> None:
    assert_equal_to_llama_cpps((*WITHOUT_DRAFT, PIPESPEC), long_prompts, 1, FEW_TOKENS, default_model, threads=2)


def test_k_quants_write_llama_cpps_text(k_quants: Path, long_prompts: list[list[int]], draft: Path) -> None:
    assert_equal_to_llama_cpps(WAYS, long_prompts, 4, FEW_TOKENS, k_quants, draft=str(draft))


def assert_second_turns_are_fresh(model: Path, prompts: list[list[int]], strategy: str) -> None:
    """Hold chats of two turns, one after the other, in one job; a second turn goes on after the answer to the first."""
    first_answers = greedy(model, prompts, FEW_TOKENS, frozenset())
    others = [*prompts[1:], prompts[0]]
    turns = zip(prompts, first_answers, others, strict=True)
    seconds = [[*first, *answer, *other[1:]] for first, answer, other in turns]
    second_answers = greedy(model, seconds, FEW_TOKENS, frozenset())
    chats = [turn for chat in zip(prompts, seconds, strict=True) for turn in chat]
    found = answers(3, [wanted_of(turn, FEW_TOKENS, strategy, "ngram") for turn in chats], model=str(model))
    expected = [answer for chat in zip(first_answers, second_answers, strict=True) for answer in chat]
    assert tokens_of(found) == expected


def test_the_second_turn_is_that_of_a_fresh_start_on_k_quants(k_quants: Path, prompts: list[list[int]]) -> None:
    assert_second_turns_are_fresh(k_quants, [prompts[2], prompts[7]], "auto")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["plain", "auto"])
@pytest.mark.parametrize("kind", ["k_quants", "default_model", "halves"])
def test_twenty_second_turns_are_those_of_fresh_starts(
    kind: str, strategy: str, prompts: list[list[int]], request: pytest.FixtureRequest
) -> None:
    assert len(prompts) == 20
    assert_second_turns_are_fresh(request.getfixturevalue(kind), prompts, strategy)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_two_threads_write_llama_cpps_text_at_length(
    ranks: int, default_model: Path, prompts: list[list[int]], draft: Path
) -> None:
    options = {"threads": 2, "draft": str(draft), "timeout": 3500.0}
    assert_equal_to_llama_cpps(EACH_STRATEGY, prompts[:10], ranks, LONG_TOKENS, default_model, **options)
