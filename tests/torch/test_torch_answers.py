"""Whole answers of the default model in Hugging Face's form: any ranks and strategy write what transformers does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from mpispec.compute.hf_vocabulary import HfVocabulary
from mpispec.compute.llama_vocabulary import Vocabulary
from mpispec.core.messages import Sampling
from mpispec.models.default import resolve
from mpispec.sampling import decide
from mpispec.strategies import PRESETS
from research.prompts import PROMPTS
from tests.mpi.conftest import DRAFT_BLOCKS
from tests.mpi.crafted import thinned
from tests.mpi.jobs import TREES, WITH_EXITS, WITHOUT_DRAFT, answers, request

pytestmark = [pytest.mark.torch, pytest.mark.timeout(300)]

FEW, FEW_TOKENS = (0, 6), 12
NUM_TOKENS = 64
"""Of all prompts, at length."""
PIECES = [range(start, start + 5) for start in range(0, 20, 5)]
"""Which prompts are asked in one job then."""
GREEDY: dict[str, Any] = {}
SAMPLED: dict[str, Any] = {"temperature": 0.8, "seed": 5}
CHAINS = (*WITHOUT_DRAFT, ("pipespec", "ngram"), ("speed", "ngram"))
WITH_DRAFT = (("pipeinfer", "draft"), ("specpipe", "draft"), ("auto", "draft"))
SECONDS = 7000.0
"""For one job at length."""

Way = tuple[str, str]
Written = tuple[dict[str, Any], list[list[int]]]
"""How tokens are drawn, and the answers."""


class Drawn(transformers.LogitsProcessor):
    """Leaves the one token that a stage would draw from the same logits: the noise is a function of the position."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        chosen = decide(scores[0].numpy(), self._sampling, input_ids.shape[1])
        return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([chosen]), 0.0)


def written(folder: Path, prompts: Sequence[Sequence[int]], num_tokens: int, how: dict[str, Any]) -> list[list[int]]:
    """Return what transformers generates by itself, on one thread as the jobs do."""
    torch.set_num_threads(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model.generation_config.eos_token_id = None
    drawing = transformers.LogitsProcessorList([Drawn(Sampling(**how))] if how else [])
    found = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        options = {"max_new_tokens": num_tokens, "do_sample": False, "logits_processor": drawing}
        whole = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        found.append(whole[0, len(prompt) :].tolist())
    return found


@pytest.fixture(scope="module")
def prompts(default_model: Path) -> list[list[int]]:
    """Return the token ids of the prompts."""
    vocabulary = HfVocabulary(default_model)
    return [vocabulary.tokenize(text, special=True) for text in PROMPTS]


@pytest.fixture(scope="module")
def few(prompts: list[list[int]]) -> list[list[int]]:
    """Return two prompts."""
    return [prompts[index] for index in FEW]


@pytest.fixture(scope="module")
def few_written(default_model: Path, few: list[list[int]]) -> list[Written]:
    """Return what transformers answers to the two prompts."""
    return [(how, written(default_model, few, FEW_TOKENS, how)) for how in (GREEDY, SAMPLED)]


def assert_written(
    expected: Sequence[Written], ranks: int, ways: Sequence[Way], prompts: Sequence[Sequence[int]], **options: Any
) -> list[dict[str, Any]]:
    """Answer the prompts in every way, in one job, and compare; return the answers."""
    asked = [(way, how, *each) for way in ways for how, texts in expected for each in zip(prompts, texts, strict=True)]
    wanted = [request(prompt, len(text), *way, **how) for way, how, prompt, text in asked]
    found = answers(ranks, wanted, **options)
    unlike = [
        (*way, how, prompts.index(prompt))
        for (way, how, prompt, text), answer in zip(asked, found, strict=True)
        if answer["tokens"] != text
    ]
    assert not unlike, f"{len(unlike)} of {len(asked)} answers are not those of transformers: {unlike}"
    return found


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_any_number_of_ranks_writes_what_transformers_does(
    ranks: int, default_model: Path, few: list[list[int]], few_written: list[Written]
) -> None:
    assert_written(few_written, ranks, WITHOUT_DRAFT, few, model=str(default_model))


def test_a_draft_in_gguf_form_drafts_for_a_target_in_hugging_face_s(
    default_model: Path, few: list[list[int]], few_written: list[Written]
) -> None:
    found = assert_written(few_written, 3, WITH_DRAFT, few, model=str(default_model), draft=str(resolve(None)))
    assert sum(answer["report"]["speculation"]["accepted"] for answer in found) > len(found) * FEW_TOKENS // 2


def test_an_exit_drafts_and_changes_no_token(
    default_model: Path, few: list[list[int]], few_written: list[Written]
) -> None:
    found = assert_written(few_written, 3, WITH_EXITS, few, model=str(default_model), exits=(2,))
    assert sum(answer["report"]["speculation"]["accepted"] for answer in found) > 0


@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.parametrize("piece", PIECES, ids=lambda piece: f"prompts-from-{piece.start}")
@pytest.mark.parametrize("how", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("ranks", [1, 2, 4], ids="{}-ranks".format)
@pytest.mark.parametrize("ways", [CHAINS, TREES], ids=["chains", "trees"])
def test_every_strategy_writes_what_transformers_does_at_length(
    ways: Sequence[Way],
    ranks: int,
    how: dict[str, Any],
    piece: range,
    default_model: Path,
    prompts: list[list[int]],
    tmp_path: Path,
) -> None:
    """In pieces that can be chosen, like -k "trees and 4-ranks and sampled and from-10"."""
    assert {strategy for strategy, _ in (*CHAINS, *TREES)} == set(PRESETS)
    assert {number for piece in PIECES for number in piece} == set(range(len(prompts)))
    options: dict[str, Any] = {"model": str(default_model), "timeout": SECONDS}
    if ways is TREES:  # drafted by a model that is often wrong
        options["draft"] = str(thinned(resolve(None), tmp_path / "draft.gguf", DRAFT_BLOCKS))
    mine = [prompts[number] for number in piece]
    assert_written([(how, written(default_model, mine, NUM_TOKENS, how))], ranks, ways, mine, **options)


def test_tokens_are_those_of_the_same_model_in_gguf_form(default_model: Path) -> None:
    ours, llama = HfVocabulary(default_model), Vocabulary(resolve(None))
    texts = (*PROMPTS, "<|im_start|>user\nHi<|im_end|>\n", "Grüße, 你好 🙂\n\t  spaces")
    for text in texts:
        for special in (True, False):
            tokens = ours.tokenize(text, special)
            assert tokens == llama.tokenize(text, special)
            assert b"".join(ours.piece(token, special=True) for token in tokens).decode() == text
    assert [ours.piece(token) for token in range(ours.size)] == [llama.piece(token) for token in range(llama.size)]
    assert (ours.digest, ours.size, ours.bos, ours.eos) == (llama.digest, llama.size, llama.bos, llama.eos)
    assert ours.eog <= llama.eog
    assert ours.chat_template == llama.chat_template
    assert ours.controls == llama.controls
    assert not any(map(ours.piece, ours.eog))
