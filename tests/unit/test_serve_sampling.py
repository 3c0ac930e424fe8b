"""What a request says of how its tokens are decided: every spelling reaches the engine, nonsense is named."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from serve_fake import ByteVocabulary, FakeEngine, connected, make_service

from mpispec.core.messages import Sampling

pytestmark = pytest.mark.unit

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def sampling_of(client: httpx.Client, engine: FakeEngine, **fields: Any) -> Sampling:
    """Return how the engine was asked to decide."""
    response = client.post(TEXT, json={"prompt": "hi", "seed": 0, **fields})
    assert response.status_code == 200, response.text
    return engine.generations[-1].sampling


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"presence_penalty": 1.5, "frequency_penalty": -0.5}, Sampling(presence_penalty=1.5, frequency_penalty=-0.5)),
        ({"repetition_penalty": 1.2}, Sampling(repeat_penalty=1.2, repeat_last_n=65536)),
        ({"repetition_penalty": 1.2, "repeat_last_n": 9.0}, Sampling(repeat_penalty=1.2, repeat_last_n=9)),
        ({"repeat_penalty": 1.1, "repetition_penalty": 1.2}, Sampling(repeat_penalty=1.1, repeat_last_n=65536)),
        ({"repeat_penalty": 1.1, "repeat_last_n": -1}, Sampling(repeat_penalty=1.1, repeat_last_n=65536)),
        ({"logit_bias": {"7": -100, "5": 2.5}}, Sampling(logit_bias=((5, 2.5), (7, -100.0)))),
        ({"logit_bias": [[7, False], [5, 1]]}, Sampling(logit_bias=((5, 1.0), (7, -1e6)))),
        ({"logit_bias": {}}, Sampling()),
        ({"logit_bias": None, "min_tokens": None, "ignore_eos": None, "stop_token_ids": None}, Sampling()),
        ({"temperature": 0.5, "top_k": -1}, Sampling(0.5)),
        ({"top_k": 40.0}, Sampling(top_k=40)),
    ],
    ids=str,
)
def test_every_spelling_reaches_the_engine(
    client: httpx.Client, engine: FakeEngine, fields: dict[str, Any], expected: Sampling
) -> None:
    assert sampling_of(client, engine, **fields) == expected


def test_what_ends_an_answer_reaches_the_engine(client: httpx.Client, engine: FakeEngine) -> None:
    sampling_of(client, engine, min_tokens=3.0, ignore_eos=True, stop_token_ids=[7, 8])
    generation = engine.generations[-1]
    assert (generation.min_tokens, generation.ignore_eos, generation.stop_token_ids) == (3, True, (7, 8))


@pytest.mark.parametrize("limit", ["-1", "-1.0", "Infinity", "null"])
def test_a_limit_that_is_none_is_all_that_fits(client: httpx.Client, engine: FakeEngine, limit: str) -> None:
    response = client.post(TEXT, content=f'{{"prompt": "hi", "max_tokens": {limit}}}')
    assert response.status_code == 200
    assert engine.generations[-1].max_tokens == engine.facts.context - 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("presence_penalty", 2.5),
        ("frequency_penalty", "1"),
        ("repetition_penalty", 0),
        ("logit_bias", {"five": 1}),
        ("logit_bias", {"-5": 1}),
        ("logit_bias", {"5": 101}),
        ("logit_bias", {"5": True}),
        ("logit_bias", {"5": None}),
        ("logit_bias", {"٥": 1}),
        ("logit_bias", {"9" * 5000: 1}),
        ("logit_bias", [5, 1]),
        ("logit_bias", [[True, 1]]),
        ("logit_bias", 5),
        ("logit_bias", {str(token): 1 for token in range(513)}),
        ("min_tokens", -2),
        ("min_tokens", 1.5),
        ("ignore_eos", 1),
        ("stop_token_ids", 3),
        ("stop_token_ids", list(range(65))),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_makes_no_sense_is_named(shared: httpx.Client, field: str, value: Any) -> None:
    response = shared.post(TEXT, json={"prompt": "hi", field: value})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == field and field in error["message"]


def test_fields_that_do_not_go_together_are_explained(shared: httpx.Client) -> None:
    error = shared.post(TEXT, json={"prompt": ["a"] * 33, "n": 2}).json()["error"]
    assert error["message"] == "A request may ask for 64 answers, n for each prompt."


def test_a_suffix_is_filled_in_before_where_the_model_can(client: httpx.Client, engine: FakeEngine) -> None:
    wanted = {"prompt": ["ab", [97, 98]], "suffix": "c", "max_tokens": 1}
    refused = client.post(TEXT, json=wanted)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "suffix"
    assert client.post(TEXT, json={**wanted, "suffix": ""}).status_code == 200

    class Filling(ByteVocabulary):
        size, bos, infill = 261, 256, (258, 259, 260)

    filling = FakeEngine()
    with connected(filling, make_service(filling, vocabulary=Filling())) as other:
        answer = other.post(TEXT, json={**wanted, "echo": True})
        assert answer.json()["choices"][0]["text"].startswith("ab")
        other.post(TEXT, json={"prompt": [256, 97], "suffix": "c", "max_tokens": 1})
    asked = [list(generation.prompt) for generation in filling.generations]
    assert asked == [[258, 97, 98, 259, 99, 260]] * 2 + [[256, 258, 97, 259, 99, 260]]


def test_the_tokens_that_frame_a_text_are_named(shared: httpx.Client) -> None:
    info = shared.get("/tokenizer_info").json()
    assert info == {"bos_token": None, "eos_token": "<|end|>", "pad_token": "<|end|>", "model_max_length": 512}
