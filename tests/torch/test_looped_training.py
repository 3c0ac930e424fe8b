"""A llama that applies its layers several times, trained for a few steps on the text that comes with Python."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

from mpispec.models import hf_folder
from research import looped_figures, looped_text, looped_training
from research.looped_training import Recipe

pytestmark = pytest.mark.torch

MINUTE = Recipe(width=64, layers=1, cycles=2, steps=24)
TEXT = [f"The number {number} is the sum of {number - 3} and 3: it is not\tnaïve, nor new.\n" for number in range(400)]
ODD_TEXTS = ("", " two  blanks ", "naïve — 漢字 \U0001f600\r\n\ttab", "It 's , odd . n't", TEXT[7])


@pytest.fixture(scope="module")
def tokenizer() -> transformers.PreTrainedTokenizerFast:
    return looped_training.learn_tokens(TEXT)


@pytest.fixture(scope="module")
def tokens(tokenizer: transformers.PreTrainedTokenizerFast) -> torch.Tensor:
    return looped_training.stream(tokenizer, TEXT)


def trained(
    recipe: Recipe, tokenizer: transformers.PreTrainedTokenizerFast, tokens: torch.Tensor
) -> transformers.PreTrainedModel:
    model = looped_training.blank(recipe, tokenizer)
    assert looped_training.train(model, tokens, recipe) == recipe.steps
    return model


def test_what_is_held_out_is_not_learnt() -> None:
    learnt, held_out = looped_text.split()
    assert len(held_out) == -(-(len(learnt) + len(held_out)) // looped_text.HELD_OUT_EVERY) > 100
    known = set(itertools.chain.from_iterable(section.split("\n") for section in learnt))
    assert not any(line in known for section in held_out for line in section.split("\n"))


def test_sections_are_prose_without_repetitions() -> None:
    text = (
        "Return the number of all items\nthat are there.\n\n    >>> example(1)\n\nabs(x, /)\n\n"
        + "A table: 1 2 3 4 5. " * 3
    )
    again = "Another text, which says what is said elsewhere.\n\nReturn the number of all items that are there."
    assert list(looped_text.sections([text, again])) == [
        "Return the number of all items that are there.",
        "Another text, which says what is said elsewhere.",
    ]


def test_training_lowers_the_loss_of_every_exit(
    tokenizer: transformers.PreTrainedTokenizerFast, tokens: torch.Tensor
) -> None:
    window = tokens[None, : looped_training.CONTEXT + 1]
    _, before = looped_training.losses(looped_training.blank(MINUTE, tokenizer), window)
    _, after = looped_training.losses(trained(MINUTE, tokenizer, tokens), window)
    assert before.shape == after.shape == (MINUTE.cycles,)
    assert bool((after < before - 1).all())


def test_the_seed_decides_the_weights(tokenizer: transformers.PreTrainedTokenizerFast, tokens: torch.Tensor) -> None:
    recipe = replace(MINUTE, steps=3)
    first, same = (trained(recipe, tokenizer, tokens).state_dict() for _ in range(2))
    other = trained(replace(recipe, seed=1), tokenizer, tokens).state_dict()
    assert all(torch.equal(weight, same[name]) for name, weight in first.items())
    assert not all(torch.equal(weight, other[name]) for name, weight in first.items())


def test_a_seed_draws_other_windows_too(tokenizer: transformers.PreTrainedTokenizerFast, tokens: torch.Tensor) -> None:
    ends = []
    for seed in (0, 1):
        model = looped_training.blank(MINUTE, tokenizer)
        looped_training.train(model, tokens, replace(MINUTE, steps=1, seed=seed))
        ends.append(model.lm_head.weight)
    assert not torch.equal(*ends)


def test_the_folder_opens_in_transformers_with_the_same_logits(
    tokenizer: transformers.PreTrainedTokenizerFast, tokens: torch.Tensor, tmp_path: Path
) -> None:
    model = trained(replace(MINUTE, steps=2), tokenizer, tokens)
    looped_training.save(model, tokenizer, tmp_path)
    opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(opened) is type(model) and opened.config.num_cycles == MINUTE.cycles and opened.dtype == torch.float32
    with torch.no_grad():
        assert torch.equal(opened(tokens[None, :50]).logits, model(tokens[None, :50]).logits)
    assert opened.generation_config.eos_token_id == tokenizer.eos_token_id
    assert hf_folder.inspect(tmp_path).layers == MINUTE.layers * MINUTE.cycles


def test_text_comes_back_from_the_folder_as_it_was(
    tokenizer: transformers.PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    looped_training.save(looped_training.blank(MINUTE, tokenizer), tokenizer, tmp_path)
    opened = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in ODD_TEXTS:
        ids = opened(text)["input_ids"]
        assert ids[0] == opened.bos_token_id and opened.eos_token_id not in ids
        assert opened.decode(ids, skip_special_tokens=True) == text


def test_figures_of_exits_are_of_the_text_and_of_what_the_model_writes(
    tokenizer: transformers.PreTrainedTokenizerFast, tokens: torch.Tensor
) -> None:
    held_out = [" ".join(TEXT[start : start + 10]) for start in range(0, 200, 10)]
    blank = looped_training.blank(MINUTE, tokenizer)
    torch.nn.init.zeros_(blank.lm_head.weight)  # all tokens are equally likely
    figures, written = looped_figures.measure(blank, tokenizer, held_out)
    num_tokens = sum(len(ids) - 1 for ids in tokenizer(held_out)["input_ids"])  # BEGIN is none of the text
    bits = num_tokens * torch.tensor(float(len(tokenizer))).log2().item() / sum(map(len, held_out))
    assert [each.bits_per_character for each in figures] == pytest.approx([bits] * MINUTE.cycles)
    assert len(written) == looped_figures.PROMPTS
    model = trained(MINUTE, tokenizer, tokens)
    figures, _ = looped_figures.measure(model, tokenizer, held_out)
    assert figures[-1].bits_per_character < bits and figures[0] != figures[-1]
    assert figures[-1].held_out_agreement == figures[-1].written_agreement == 1.0


def test_cycles_are_added_until_all_are_trained() -> None:
    seen = [looped_training.cycles_at(share / 100, 4) for share in range(100)]
    assert seen == sorted(seen) and set(seen) == {1, 2, 3, 4} and seen.index(4) == 60
    assert looped_training.cycles_at(0.99, 1) == 1
