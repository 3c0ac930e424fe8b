"""What goes between a prefix and a suffix, with tokenizers of Hugging Face's form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers

from mpispec.compute.hf_vocabulary import HfVocabulary
from mpispec.serve.api.texts import infilled

pytestmark = pytest.mark.torch

SPELLINGS = [
    ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
    ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
    ["<fim-prefix>", "<fim-suffix>", "<fim-middle>"],
]
PREFIX, SUFFIX = "def double(number):\n    ", "\n    return found  # <|fim_middle|>"


def vocabulary_of(folder: Path, controls: list[str], bos: str | None = None) -> HfVocabulary:
    """Return the vocabulary of a folder with a byte-level tokenizer that was trained on some code."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    names = [*([bos] if bos else []), "<|end|>", *controls]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=320, special_tokens=names, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([PREFIX, SUFFIX] * 4, trainer)
    if bos:
        token = tokenizer.token_to_id(bos)
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, token)]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": tokenizer.get_vocab_size()}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": bos, "eos_token": "<|end|>"}))
    return HfVocabulary(folder)


@pytest.mark.parametrize("bos", [None, "<bos>"])
@pytest.mark.parametrize("names", SPELLINGS, ids=lambda names: names[0])
def test_a_suffix_is_filled_in_before(tmp_path: Path, names: list[str], bos: str | None) -> None:
    vocabulary = vocabulary_of(tmp_path, names, bos)
    prefix = vocabulary.tokenize(PREFIX, special=True)
    assert len(prefix) < len(PREFIX), "pieces of several letters were learned"
    prompt = infilled(vocabulary, prefix, SUFFIX)
    assert [token for token in prompt if token in (vocabulary.infill or ())] == list(vocabulary.infill or ())
    text = b"".join(vocabulary.piece(token, special=True) for token in prompt).decode()
    assert text == f"{bos or ''}{names[0]}{PREFIX}{names[1]}{SUFFIX}{names[2]}"


def test_a_tokenizer_without_such_tokens_fills_nothing_in(tmp_path: Path) -> None:
    assert vocabulary_of(tmp_path, SPELLINGS[0][:2]).infill is None
