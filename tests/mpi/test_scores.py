"""Log-probabilities on the default model: the same with a draft as without, and those that llama.cpp computes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

from mpispec.compute.llama_traits import Tiling
from mpispec.compute.llama_vocabulary import Vocabulary
from tests.mpi.jobs import answers, request

pytestmark = pytest.mark.mpi

PENALISED: dict[str, Any] = {
    "temperature": 0.7,
    "seed": 5,
    "presence_penalty": 0.6,
    "frequency_penalty": 0.4,
    "repeat_penalty": 1.1,
    "logit_bias": [[260, -4.0], [284, 2.0]],
    "top_logprobs": 3,
}
TOKENS = 32
CLOSE = 1e-3
CLOSE_IN_TILES = 0.05
"""llama.cpp reads a long prompt in runs of other sizes, which on some CPUs moves log-probabilities by 0.003."""


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return float64 [rows, vocabulary]."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    found: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found


def reference(model: Path, text: Sequence[int]) -> np.ndarray:
    """Return what llama-cpp-python gives every token at every position, float64 [positions, vocabulary].

    It reads as `tests.mpi.reference` does, for the same reason.
    """
    llama = llama_cpp.Llama(
        str(model),
        n_ctx=1024,
        n_batch=1024 if Tiling().is_long(len(text)) else 32,
        n_threads=1,
        n_threads_batch=1,
        flash_attn=True,
        logits_all=True,
        verbose=False,
    )
    llama.eval(list(text))
    found = log_softmax(np.array(llama.scores[: len(text)]))
    llama.close()
    return found


@pytest.fixture(scope="module")
def drafted(default_model: Path, draft: Path, prompts: list[list[int]]) -> list[dict[str, Any]]:
    """Return the answers of a job with two stages and a draft: plain first, then speculating; `sync` waits for it."""
    others = (("sync", "draft"), ("specpipe", "draft"), ("auto", "draft+ngram"), ("pipeinfer", "ngram"))
    asked = [request(prompts[2], TOKENS, *way, **PENALISED) for way in (("plain", "none"), *others)]
    return answers(3, asked, model=str(default_model), draft=str(draft))


def test_tokens_and_scores_are_the_same_with_a_draft(drafted: list[dict[str, Any]], prompts: list[list[int]]) -> None:
    plain, *others = drafted
    assert len(plain["tokens"]) == TOKENS
    assert [score[0] for score in plain["scores"]] == [*range(len(prompts[2]), len(prompts[2]) + TOKENS)]
    assert [score[1] for score in plain["scores"]] == plain["tokens"]
    for other in others:
        assert other["tokens"] == plain["tokens"]
        assert other["scores"] == plain["scores"]
    assert others[0]["report"]["speculation"]["accepted"] > 0


def test_scores_of_an_answer_are_the_models_own_before_bias_and_penalty(
    drafted: list[dict[str, Any]], prompts: list[list[int]], default_model: Path
) -> None:
    plain = drafted[0]
    logs = reference(default_model, [*prompts[2], *plain["tokens"]])
    for pos, token, logprob, top in plain["scores"]:
        assert logprob == pytest.approx(logs[pos - 1, token], abs=CLOSE)
        best = np.argsort(-logs[pos - 1], kind="stable")[:3]
        assert [log for _, log in top] == pytest.approx(logs[pos - 1, best], abs=CLOSE)


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_prompt_is_scored_whole_though_it_is_cached(
    default_model: Path, vocabulary: Vocabulary, prompts: list[list[int]], at_once: int
) -> None:
    long = vocabulary.tokenize(" ".join(f"The {number}th word of this text is a number." for number in range(42)), True)
    assert Tiling().is_long(len(long)), "read in tiles"
    texts = [prompts[0], prompts[0], long, prompts[0][:1]]
    counts = (1, 0, 1, 1)
    how = {"top_logprobs": 1, "scores_prompt": True}
    asked = [request(text, count, "auto", "ngram", **how) for text, count in zip(texts, counts, strict=True)]
    found = answers(2, asked, at_once=at_once, model=str(default_model), parallel=at_once, context=1024)
    for text, answer, count in zip(texts, found, counts, strict=True):
        assert len(answer["tokens"]) == count
        logs = reference(default_model, text)
        close = CLOSE_IN_TILES if Tiling().is_long(len(text)) else CLOSE
        by_pos = {score[0]: score for score in answer["scores"]}
        assert sorted(by_pos) == [*range(1, len(text) + count)]
        for pos in range(1, len(text)):
            _, token, logprob, top = by_pos[pos]
            assert token == text[pos]
            assert logprob == pytest.approx(logs[pos - 1, token], abs=close)
            assert top[0][1] == pytest.approx(logs[pos - 1].max(), abs=close)
