"""What lm-eval's `local-completions` sends and how it reads the answer, against llama-cpp-python's own logits.

lm-eval itself brings too much for this lane: `python scripts/research likelihoods` runs it.
"""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from mpispec.models.default import resolve
from research.likelihoods import CLOSE, QUESTIONS, computed
from tests.api.conftest import KEY

pytestmark = pytest.mark.api


def tokens_of(client: httpx.Client, text: str) -> list[int]:
    """Tokenise as lm-eval's remote tokenizer does."""
    found: list[int] = client.post("/tokenize", json={"prompt": text, "add_special_tokens": False}).json()["tokens"]
    return found


def parsed(choice: dict[str, Any], context: int) -> tuple[float, bool]:
    """Read a choice as `LocalCompletionsAPI.parse_logprobs` does: the sum, and whether each token was the likeliest."""
    logprobs = choice["logprobs"]["token_logprobs"][context:-1]
    tops = choice["logprobs"]["top_logprobs"][context:-1]
    return sum(logprobs), all(logprob == max(top.values()) for logprob, top in zip(logprobs, tops, strict=True))


def test_log_likelihoods_are_those_that_llama_cpp_computes(url: str) -> None:
    expected = computed(resolve(None))
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60, trust_env=False) as client:
        info = client.get("/tokenizer_info").json()
        assert info["eos_token"] == "<|im_end|>"
        for context, choices in QUESTIONS:
            start = len(tokens_of(client, context))
            prompts = [tokens_of(client, context + choice) for choice in choices]
            wanted = {"prompt": prompts, "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
            answer = client.post("/v1/completions", json=wanted).json()
            for choice, prompt, found in zip(choices, prompts, answer["choices"], strict=True):
                logprobs = found["logprobs"]
                assert len(logprobs["tokens"]) == len(prompt) + 1
                assert found["text"].startswith(context + choice)
                assert logprobs["token_logprobs"][0] is None
                assert logprobs["text_offset"][start] == len(context)
                value, is_greedy = parsed(found, start)
                assert value == pytest.approx(expected[context, choice], abs=CLOSE)
                if choice in (" Paris", " London"):
                    assert is_greedy == (choice == " Paris"), "only one of two can be the likeliest"


def test_a_stream_has_the_logprobs_of_the_whole(url: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
    messages = [{"role": "user", "content": "Say a short sentence with an emoji."}]
    wanted: dict[str, Any] = {
        "model": "gpt-4o",
        "messages": messages,
        "logprobs": True,
        "top_logprobs": 3,
        "max_tokens": 24,
        "frequency_penalty": 1.0,
        "logit_bias": {"28": -100},
        "extra_body": {"min_tokens": 8},
    }
    whole = client.chat.completions.create(**wanted).choices[0]
    entries = whole.logprobs.content
    assert len(entries) >= 8
    text = bytes(byte for entry in entries for byte in entry.bytes).decode("utf-8", "replace")
    assert text.removesuffix("<|im_end|>") == whole.message.content
    assert all(entry.logprob <= entry.top_logprobs[0].logprob and len(entry.top_logprobs) == 3 for entry in entries)
    plain = client.chat.completions.create(**{**wanted, "extra_body": {"min_tokens": 8, "strategy": "plain"}}).choices[
        0
    ]
    assert plain.logprobs == whole.logprobs
    streamed = []
    for chunk in client.chat.completions.create(**wanted, stream=True):
        if chunk.choices and chunk.choices[0].logprobs:
            streamed += chunk.choices[0].logprobs.content
    assert [entry.model_dump() for entry in streamed] == [entry.model_dump() for entry in entries]
