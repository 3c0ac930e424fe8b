"""What the tests of whole programs share: a cache of parts of their own, models, the reference text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mpispec.compute.llama_vocabulary import Vocabulary
from mpispec.models.default import resolve
from research.prompts import PROMPTS
from tests.mpi.crafted import thinned
from tests.mpi.reference import greedy

DAY_TOKENS = 64
"""Longest answers of `scripts/test`."""
NIGHT_TOKENS = 128
"""Longest answers of `scripts/nightly`."""
DRAFT_BLOCKS = tuple(block for block in range(30) if block not in (7, 10, 13, 16, 20, 23))
"""Leaving out every third block of the middle gives a draft that is right 30 to 70 times of 100 (measured)."""


@pytest.fixture(scope="session", autouse=True)
def part_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Let parts be cut into a folder that goes away with the tests."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPISPEC_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def default_model() -> Path:
    """Return the file of SmolLM2-135M."""
    return resolve(None)


@pytest.fixture(scope="session")
def vocabulary(default_model: Path) -> Iterator[Vocabulary]:
    """Return the default model's vocabulary."""
    vocabulary = Vocabulary(default_model)
    yield vocabulary
    vocabulary.close()


@pytest.fixture(scope="session")
def prompts(vocabulary: Vocabulary) -> list[list[int]]:
    """Return the token ids of the prompts."""
    return [vocabulary.tokenize(prompt, special=True) for prompt in PROMPTS]


@pytest.fixture(scope="session")
def draft(default_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a draft of the default model that is rejected often enough to exercise what a rejection costs."""
    return thinned(default_model, tmp_path_factory.mktemp("draft") / "draft.gguf", DRAFT_BLOCKS)


@pytest.fixture(scope="session")
def reference(default_model: Path, vocabulary: Vocabulary, prompts: list[list[int]]) -> list[list[int]]:
    """Return llama-cpp-python's own greedy continuation of each prompt, as long as by day."""
    return greedy(default_model, prompts, DAY_TOKENS, vocabulary.eog)


@pytest.fixture(scope="session")
def long_reference(default_model: Path, vocabulary: Vocabulary, prompts: list[list[int]]) -> list[list[int]]:
    """Return llama-cpp-python's own greedy continuation of each prompt, as long as by night."""
    return greedy(default_model, prompts, NIGHT_TOKENS, vocabulary.eog)
