"""A draft whose context ends in the midst of an answer, or before it, costs speed and never the text (law 6)."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpispec.compute.llama_vocabulary import Vocabulary
from tests.mpi.crafted import shortened
from tests.mpi.jobs import TREES, WITH_DRAFT, answers, request, tokens_of
from tests.mpi.reference import greedy

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(300)]

TOKENS = 40
BEYOND = 24
"""Tokens of the answer for which the draft's context has room."""
CHAINED = (("pipespec", "draft"), ("pipeinfer", "draft"), ("sync", "draft"))
"""The last waits for draft tokens; the others go on without them where a host is busy."""


@pytest.mark.parametrize("is_before", [False, True], ids=["in-the-midst", "before"])
@pytest.mark.parametrize("ways", [(*WITH_DRAFT, *TREES, *CHAINED[:1]), CHAINED], ids=["draft", "cascade"])
def test_an_answer_goes_on_where_the_drafts_context_ends(
    ways: tuple[tuple[str, str], ...],
    is_before: bool,
    default_model: Path,
    draft: Path,
    prompts: list[list[int]],
    vocabulary: Vocabulary,
    tmp_path: Path,
) -> None:
    """The lowest of a cascade ends first, then the level."""
    prompt = prompts[11]
    expected = greedy(default_model, [prompt], TOKENS, vocabulary.eog)
    context = len(prompt) - 6 if is_before else len(prompt) + BEYOND
    short = shortened(draft, tmp_path / "draft.gguf", context)
    level = [str(shortened(draft, tmp_path / "level.gguf", context + 4))] if ways is CHAINED else []
    wanted = [request(prompt, TOKENS, *way) for way in ways]
    found = answers(4, wanted, vocabulary.eog, draft=str(short), cascade=level)
    assert tokens_of(found) == expected * len(ways)
    drafted = [
        answer["report"]["speculation"]["drafted"] for way, answer in zip(ways, found, strict=True) if "+" not in way[1]
    ]
    assert any(drafted) is not is_before, drafted
