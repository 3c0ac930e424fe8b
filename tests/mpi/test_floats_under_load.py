"""Six requests at once on float weights, of several strategies side by side: each has the text that it has alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from mpispec.compute.llama_vocabulary import Vocabulary
from research.llama_quantise import quantise
from research.widen import widen
from tests.mpi.jobs import Request, answers, request, tokens_of
from tests.mpi.reference import greedy

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(300)]

AT_ONCE = 6
MAX_TOKENS = 16
ROUNDS = 3
TEXTS = (0, 2, 5, 7, 11, 13)
"""Prompts, as many as requests at once."""
SAMPLED: dict[str, Any] = {"temperature": 0.8, "seed": 7}
WAYS = (
    ("plain", "none"),
    ("sync", "draft"),
    ("pipeinfer", "draft"),
    ("auto", "draft"),
    ("specpipe", "draft"),
    ("auto", "draft+ngram"),
)


@pytest.fixture(scope="module", params=["f32", "f16"])
def float_model(request: pytest.FixtureRequest, default_model: Path) -> Iterator[Path]:
    """Return the default model in floats; it and its parts go away with the tests."""
    with TemporaryDirectory(prefix="mpispec-floats-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPISPEC_CACHE", f"{folder}/cache")
        copy = Path(folder, f"{request.param}.gguf")
        if request.param == "f32":
            widen(default_model, copy, "float32 copy")
        else:
            quantise(default_model, copy, "f16", 1)
        yield copy


def rounds(texts: list[list[int]]) -> list[list[Request]]:
    """Return what is asked at once, in rounds in which text k is asked in way k + round, greedy and sampled in turn."""
    return [
        [
            request(text, MAX_TOKENS - place, *WAYS[(place + number) % len(WAYS)], **(SAMPLED if place % 2 else {}))
            for place, text in enumerate(texts)
        ]
        for number in range(ROUNDS)
    ]


def test_requests_at_once_are_answered_as_alone(
    float_model: Path, draft: Path, prompts: list[list[int]], vocabulary: Vocabulary
) -> None:
    texts = [prompts[index] for index in TEXTS]
    lone = [{**each, "strategy": "plain", "drafter": "none"} for each in rounds(texts)[0]]
    alone = tokens_of(answers(1, lone, vocabulary.eog, model=str(float_model)))
    assert alone[::2] == [
        answer[: MAX_TOKENS - place]
        for place, answer in zip(
            range(0, AT_ONCE, 2), greedy(float_model, texts[::2], MAX_TOKENS, vocabulary.eog), strict=True
        )
    ]
    options: dict[str, Any] = {"model": str(float_model), "draft": str(draft), "parallel": AT_ONCE}
    wanted = [each for some in rounds(texts) for each in some]
    found = answers(3, wanted, vocabulary.eog, at_once=AT_ONCE, exactness="exact", timeout=280.0, **options)
    for number in range(ROUNDS):
        assert tokens_of(found[number * AT_ONCE :][:AT_ONCE]) == alone, f"round {number}"
    # How much the others draft depends on how fast the draft is beside them; this one waits for it.
    sync = [answer["report"]["speculation"] for answer in found if answer["report"]["strategy"] == "sync"]
    assert len(sync) == ROUNDS
    accepted, drafted = (sum(each[counter] for each in sync) for counter in ("accepted", "drafted"))
    assert drafted > accepted > 5, "too little was drafted, or rejected, to prove anything"
