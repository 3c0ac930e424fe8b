"""A draft or a level whose vocabulary is longer or shorter than the target's still drafts, and changes no text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mpispec.compute.llama_vocabulary import Vocabulary
from tests.launch import run_ranks
from tests.mpi.crafted import padded, thinned
from tests.mpi.jobs import answers, request, tokens_of
from tests.mpi.program import MPISPEC
from tests.mpi.test_cascade import MIDDLE_BLOCKS

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(300)]

COUNT = 128
"""Tokens more, as between the two sizes of Qwen2.5."""
TOKENS = 24
WAYS = (("sync", "draft"), ("specpipe", "draft"), ("pipeinfer", "draft+ngram"))
"""The first waits for draft tokens, so there are some however slow the machine."""
SAMPLINGS: tuple[dict[str, Any], ...] = ({}, {"temperature": 0.8, "seed": 7, "repeat_penalty": 1.2})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where models are written."""
    return tmp_path_factory.mktemp("padded")


def common(vocabulary: Vocabulary) -> int:
    """Return a token after which come `COUNT` others that are often written."""
    return vocabulary.tokenize(" the", special=False)[0]


def asked(prompts: list[list[int]], way: tuple[str, str]) -> list[dict[str, Any]]:
    """Return requests for all prompts, greedy and sampled."""
    return [request(prompt, TOKENS, *way, **sampling) for prompt in prompts for sampling in SAMPLINGS]


def num_accepted(found: list[dict[str, Any]]) -> int:
    """Return how many draft tokens were accepted."""
    return sum(answer["report"]["speculation"]["accepted"] for answer in found)


def test_a_padded_draft_changes_no_answer(
    folder: Path, draft: Path, prompts: list[list[int]], vocabulary: Vocabulary
) -> None:
    """To the draft its extra tokens are as likely as common words, so its trees would hold them."""
    padded_draft = padded(draft, folder / "padded-draft.gguf", COUNT, first=common(vocabulary))
    few = prompts[2:4]
    alone = tokens_of(answers(1, asked(few, ("plain", "none")), vocabulary.eog))
    found = answers(3, [each for way in WAYS for each in asked(few, way)], vocabulary.eog, draft=str(padded_draft))
    assert tokens_of(found) == alone * len(WAYS)
    assert num_accepted(found) > 0


def test_a_padded_target_reads_tokens_that_its_draft_lacks(
    folder: Path, default_model: Path, draft: Path, prompts: list[list[int]], vocabulary: Vocabulary
) -> None:
    target = padded(default_model, folder / "padded.gguf", COUNT)
    few = [prompts[2], [*prompts[2][:4], vocabulary.size + 5, vocabulary.size + COUNT - 1, *prompts[2][4:]]]
    model = str(target)
    alone = tokens_of(answers(1, asked(few, ("plain", "none")), vocabulary.eog, model=model))
    wanted = [each for way in WAYS for each in asked(few, way)]
    found = answers(3, wanted, vocabulary.eog, model=model, draft=str(draft))
    assert tokens_of(found) == alone * len(WAYS)
    assert num_accepted(found) > 0


def test_vocabularies_of_different_sizes_change_no_answer_of_a_cascade(
    folder: Path, default_model: Path, draft: Path, prompts: list[list[int]], vocabulary: Vocabulary
) -> None:
    """The level has the most tokens, the draft the fewest, and the level lies on two ranks."""
    target = padded(default_model, folder / "target.gguf", COUNT)
    middle = thinned(default_model, folder / "middle.gguf", MIDDLE_BLOCKS)
    level = padded(middle, folder / "level.gguf", COUNT, first=common(vocabulary))
    few = [prompts[5], [*prompts[5][:4], vocabulary.size + 1, *prompts[5][4:]]]
    alone = tokens_of(answers(1, asked(few, ("plain", "none")), vocabulary.eog, model=str(target)))
    options = {"model": str(target), "draft": str(draft), "cascade": [str(level)]}
    layout = "0:0-29,1:draft,2:level1:0-13,3:level1:14-27"
    wanted = [each for strategy in ("sync", "pipespec") for each in asked(few, (strategy, "draft"))]
    found = answers(4, wanted, vocabulary.eog, layout=layout, **options)
    assert tokens_of(found) == alone * 2
    assert num_accepted(found) > 0


def test_another_vocabulary_is_refused(folder: Path, default_model: Path) -> None:
    """Two lists that only begin alike: neither is the beginning of the other."""
    first = padded(default_model, folder / "first.gguf", 1)
    second = folder / "second.gguf"
    second.write_bytes(first.read_bytes().replace(b"[PAD49152]", b"[BOS49152]"))
    job = run_ranks(
        2, [*MPISPEC, "generate", "--prompt", "x", "--model", str(first), "--draft", str(second)], timeout=60
    )
    assert job.returncode == 2
    assert "has another vocabulary than first.gguf" in job.stderr
    assert "Traceback" not in job.stderr
