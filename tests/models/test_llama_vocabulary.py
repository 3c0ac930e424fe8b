"""Text to tokens and back, as llama.cpp's own binding does it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import pytest

from mpispec.compute.base import ModelError
from mpispec.compute.llama_vocabulary import Vocabulary
from mpispec.models import cut
from tests.mpi.crafted import infilling

pytestmark = pytest.mark.models

TEXTS = (
    "Hello, world",
    "",
    " two  spaces ",
    "größer 日本語 🙂\n\ttab",
    "<|im_start|>user\nhi<|im_end|>\n",
    "a" * 5000,
    "\0",
)


@pytest.fixture(scope="module")
def vocabulary(default_model: Path) -> Iterator[Vocabulary]:
    """Return the default model's vocabulary."""
    vocabulary = Vocabulary(default_model)
    yield vocabulary
    vocabulary.close()


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("special", [False, True])
def test_tokens_are_those_of_the_binding(vocabulary: Vocabulary, default_model: Path, text: str, special: bool) -> None:
    reference = llama_cpp.Llama(str(default_model), vocab_only=True, verbose=False)
    assert vocabulary.tokenize(text, special) == reference.tokenize(text.encode(), special=special)


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_join_to_the_text(vocabulary: Vocabulary, text: str) -> None:
    tokens = vocabulary.tokenize(text, special=False)
    assert b"".join(vocabulary.piece(token) for token in tokens).decode() == text


def test_control_tokens_are_special_only_on_request(vocabulary: Vocabulary) -> None:
    assert vocabulary.tokenize("<|im_start|>", special=True) == [1] == [vocabulary.bos]
    assert len(vocabulary.tokenize("<|im_start|>", special=False)) > 1
    assert vocabulary.piece(1) == b""
    assert vocabulary.piece(1, special=True) == b"<|im_start|>"
    assert vocabulary.eos in vocabulary.eog
    assert vocabulary.size == 49152
    assert vocabulary.chat_template
    assert "im_start" in vocabulary.chat_template


def test_tokens_for_filling_in_are_those_that_the_file_names(
    vocabulary: Vocabulary, default_model: Path, tmp_path: Path
) -> None:
    assert vocabulary.infill is None
    other = Vocabulary(infilling(default_model, tmp_path / "fill.gguf", (5, 7, 6)))
    assert other.infill == (5, 7, 6)
    other.close()


def test_tokens_outside_are_refused(vocabulary: Vocabulary) -> None:
    for token in (-1, vocabulary.size):
        with pytest.raises(ValueError, match="outside"):
            vocabulary.piece(token)


def test_a_part_has_no_tokenizer(default_model: Path, part_cache: Path) -> None:
    with pytest.raises(ModelError, match="no tokenizer"):
        Vocabulary(cut.part(default_model, range(10, 12)))
