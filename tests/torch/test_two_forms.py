"""A pipeline whose ranks hold one model in two forms writes what either form writes alone, in float32."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from mpispec.compute.hf_vocabulary import HfVocabulary
from mpispec.models.default import resolve
from research.widen import widen
from tests.mpi.crafted import thinned
from tests.mpi.jobs import answers, request, tokens_of

pytestmark = [pytest.mark.torch, pytest.mark.timeout(300)]

NUM_TOKENS = 8
TEXTS = ("The capital of France is", "The history of the printing press. " * 12)
"""The last one is longer than a tile."""
WAYS = (("plain", "none"), ("pipeinfer", "ngram"), ("auto", "ngram"))
WITH_DRAFT = (("pipeinfer", "draft"), ("specpipe", "draft"), ("auto", "draft"))
DRAFT_BLOCKS = tuple(block for block in range(30) if block not in (7, 10, 13, 16, 20, 23))
"""A draft that is rejected often, as in tests/mpi."""
LAYOUTS = {
    "llama, torch": "0:0-14,1:torch:15-29",
    "torch, llama": "0:torch:0-14,1:15-29",
    "in turns": "0:0-7,1:torch:8-15,2:llama:16-22,3:torch:23-29",
}


@pytest.fixture(scope="module")
def forms(default_model: Path) -> Iterator[dict[str, str]]:
    """Return the options that name both forms, float32 each; the file and its parts go away at once."""
    with TemporaryDirectory(prefix="mpispec-forms-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPISPEC_CACHE", f"{folder}/cache")
        file = Path(folder, "floats.gguf")
        widen(resolve(None), file, "float32 copy")
        yield {"model": str(file), "other_form": str(default_model)}


@pytest.fixture(scope="module")
def prompts(default_model: Path) -> list[list[int]]:
    vocabulary = HfVocabulary(default_model)
    found = [vocabulary.tokenize(text, special=True) for text in TEXTS]
    assert len(found[-1]) > 64
    return found


@pytest.fixture(scope="module")
def expected(forms: dict[str, str], prompts: list[list[int]]) -> list[list[int]]:
    """Return what each form writes alone, which is the same."""
    requests = [request(prompt, NUM_TOKENS, "plain", "none") for prompt in prompts]
    file, folder = (tokens_of(answers(1, requests, model=model)) for model in forms.values())
    assert file == folder
    return file


def written(ways: tuple[tuple[str, str], ...], prompts: list[list[int]], layout: str, **options: Any) -> Any:
    """Return the tokens of each prompt, for each way; all in one job."""
    requests = [request(prompt, NUM_TOKENS, *way) for way in ways for prompt in prompts]
    num_ranks = layout.count(":") - layout.count("torch") - layout.count("llama")
    tokens = tokens_of(answers(num_ranks, requests, layout=layout, **options))
    return [tokens[start : start + len(prompts)] for start in range(0, len(tokens), len(prompts))]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_stages_of_two_forms_write_what_either_form_does(
    layout: str, forms: dict[str, str], prompts: list[list[int]], expected: list[list[int]]
) -> None:
    assert written(WAYS, prompts, layout, **forms) == [expected] * len(WAYS)


def test_a_draft_s_trees_leave_the_text_as_it_is(
    forms: dict[str, str], prompts: list[list[int]], expected: list[list[int]], tmp_path: Path
) -> None:
    draft = thinned(resolve(None), tmp_path / "draft.gguf", DRAFT_BLOCKS)
    layout = "0:0-14,1:draft,2:torch:15-29"
    assert written(WITH_DRAFT, prompts, layout, draft=str(draft), **forms) == [expected] * len(WITH_DRAFT)


def test_activations_may_be_rounded_on_their_way(forms: dict[str, str], prompts: list[list[int]]) -> None:
    """The text is then another in principle, and still the same whatever the strategy."""
    plain, ahead = written(WAYS[:2], prompts[:1], LAYOUTS["torch, llama"], wire="f16", **forms)
    assert plain == ahead
    assert all(len(tokens) == NUM_TOKENS for tokens in plain)
