"""A cascade of models on real ranks changes the speed and never the text (law 6), however its models disagree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mpispec.compute.llama_vocabulary import Vocabulary
from tests.mpi.crafted import thinned
from tests.mpi.jobs import answers, request, tokens_of
from tests.mpi.reference import greedy

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(300)]

PROMPTS = (5, 11)
TOKENS = 16
STRATEGIES = ("pipespec", "sync", "pipeinfer")
SAMPLED: dict[str, Any] = {"temperature": 0.8, "seed": 7, "repeat_penalty": 1.2}
MIDDLE_BLOCKS = tuple(block for block in range(30) if block not in (10, 16))
"""A model that agrees with the whole one more often than the draft does."""


@pytest.fixture(scope="module")
def middle(default_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model between the draft and the default model."""
    return thinned(default_model, tmp_path_factory.mktemp("middle") / "middle.gguf", MIDDLE_BLOCKS)


@pytest.fixture(scope="module")
def alone(default_model: Path, prompts: list[list[int]], vocabulary: Vocabulary) -> list[list[int]]:
    """Return the answers of one rank without speculation: the greedy ones are llama.cpp's, then the sampled ones."""
    few = [prompts[index] for index in PROMPTS]
    wanted = [request(prompt, TOKENS, "plain", "none", **SAMPLED) for prompt in few]
    return [*greedy(default_model, few, TOKENS, vocabulary.eog), *tokens_of(answers(1, wanted, vocabulary.eog))]


@pytest.mark.parametrize(
    ("n", "layout"),
    [
        pytest.param(1, None, id="1", marks=pytest.mark.slow),
        pytest.param(3, None, id="3", marks=pytest.mark.slow),
        pytest.param(4, None, id="4", marks=pytest.mark.slow),
        pytest.param(4, "0:0-29,1:draft,2:level1:0-13,3:level1:14-27", id="4-a-level-of-two"),
    ],
)
def test_a_cascade_writes_the_plain_text(
    n: int,
    layout: str | None,
    prompts: list[list[int]],
    vocabulary: Vocabulary,
    draft: Path,
    middle: Path,
    alone: list[list[int]],
) -> None:
    samplings: tuple[dict[str, Any], ...] = ({}, SAMPLED)
    wanted = [
        request(prompts[index], TOKENS, strategy, "draft", **sampling)
        for strategy in STRATEGIES
        for sampling in samplings
        for index in PROMPTS
    ]
    found = answers(n, wanted, vocabulary.eog, draft=str(draft), cascade=[str(middle)], layout=layout)
    for place, strategy in enumerate(STRATEGIES):
        assert tokens_of(found[place * len(alone) :][: len(alone)]) == alone, strategy
    counts = [answer["report"]["speculation"] for answer in found]
    assert sum(count["accepted"] for count in counts) > 0, "no draft token was ever right"
    assert sum(count["drafted"] - count["accepted"] for count in counts) > 0, "no draft token was ever wrong"


@pytest.mark.slow
def test_a_cascade_whose_lowest_model_is_the_target_writes_the_plain_text(
    prompts: list[list[int]],
    vocabulary: Vocabulary,
    default_model: Path,
    draft: Path,
    middle: Path,
    alone: list[list[int]],
) -> None:
    """A level may be worse than its drafter: then it rejects right tokens and is corrected."""
    wanted = [request(prompts[index], TOKENS, "sync", "draft") for index in PROMPTS]
    found = answers(4, wanted, vocabulary.eog, draft=str(default_model), cascade=[str(draft), str(middle)])
    assert tokens_of(found) == alone[: len(PROMPTS)]
