"""Whole answers of the default model in Hugging Face's form: any ranks and strategy write what transformers does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from mpispec.compute.hf_vocabulary import HfVocabulary
from mpispec.compute.llama_vocabulary import Vocabulary
from mpispec.models.default import resolve
from tests.mpi.jobs import WITH_EXITS, answers, request, tokens_of

pytestmark = pytest.mark.torch

TEXTS = ("The capital of France is", "1, 2, 3, 4, 5,")
NUM_TOKENS = 12
WAYS = (("plain", "none"), ("sync", "ngram"), ("pipeinfer", "ngram"), ("auto", "ngram"))
WITH_DRAFT = (("pipeinfer", "draft"), ("specpipe", "draft"), ("auto", "draft"))


@pytest.fixture(scope="module")
def prompts(default_model: Path) -> list[list[int]]:
    vocabulary = HfVocabulary(default_model)
    return [vocabulary.tokenize(text, special=True) for text in TEXTS]


@pytest.fixture(scope="module")
def expected(default_model: Path, prompts: list[list[int]]) -> list[list[int]]:
    """Return what transformers generates by itself, greedily."""
    model = transformers.AutoModelForCausalLM.from_pretrained(default_model)
    model.generation_config.eos_token_id = None
    found = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        whole = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NUM_TOKENS, do_sample=False)
        found.append(whole[0, len(prompt) :].tolist())
    return found


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_any_number_of_ranks_writes_what_transformers_does(
    ranks: int, default_model: Path, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    asked = [(way, prompt) for way in WAYS for prompt in prompts]
    requests = [request(prompt, NUM_TOKENS, *way) for way, prompt in asked]
    assert tokens_of(answers(ranks, requests, model=str(default_model))) == expected * len(WAYS)


def test_a_draft_in_gguf_form_drafts_for_a_target_in_hugging_face_s(
    default_model: Path, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    requests = [request(prompt, NUM_TOKENS, *way) for way in WITH_DRAFT for prompt in prompts]
    found = answers(3, requests, model=str(default_model), draft=str(resolve(None)))
    assert tokens_of(found) == expected * len(WITH_DRAFT)
    assert sum(answer["report"]["speculation"]["accepted"] for answer in found) > len(found) * NUM_TOKENS // 2


def test_an_exit_drafts_and_changes_no_token(
    default_model: Path, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    requests = [request(prompt, NUM_TOKENS, *way) for way in WITH_EXITS for prompt in prompts]
    found = answers(3, requests, model=str(default_model), exits=(2,))
    assert tokens_of(found) == expected * len(WITH_EXITS)
    assert sum(answer["report"]["speculation"]["accepted"] for answer in found) > 0


def test_sampled_answers_are_the_same_on_any_number_of_ranks(default_model: Path, prompts: list[list[int]]) -> None:
    requests = [
        request(prompt, NUM_TOKENS, *way, temperature=0.8, seed=5) for way in WAYS[::2] for prompt in prompts[:2]
    ]
    one, three = (tokens_of(answers(ranks, requests, model=str(default_model))) for ranks in (1, 3))
    assert one == three
    assert one[:2] == one[2:]


def test_tokens_are_those_of_the_same_model_in_gguf_form(default_model: Path) -> None:
    ours, llama = HfVocabulary(default_model), Vocabulary(resolve(None))
    texts = (*TEXTS, "<|im_start|>user\nHi<|im_end|>\n", "Grüße, 你好 🙂\n\t  spaces")
    for text in texts:
        for special in (True, False):
            tokens = ours.tokenize(text, special)
            assert tokens == llama.tokenize(text, special)
            assert b"".join(ours.piece(token, special=True) for token in tokens).decode() == text
    assert [ours.piece(token) for token in range(ours.size)] == [llama.piece(token) for token in range(llama.size)]
    assert (ours.digest, ours.size, ours.bos, ours.eos) == (llama.digest, llama.size, llama.bos, llama.eos)
    assert ours.eog <= llama.eog
    assert ours.chat_template == llama.chat_template
    assert not any(map(ours.piece, ours.eog))
