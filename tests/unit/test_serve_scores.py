"""Log-probabilities over HTTP: OpenAI's forms, whole and streamed, of answers and of prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from serve_fake import END, FakeEngine, make_service, serving

from mpispec.core.ids import Pos, Token
from mpispec.core.messages import Score
from mpispec.serve.text.scores import NumTop, Scoring, of_text, spelled

pytestmark = pytest.mark.unit

CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
ANSWER = "You said: hé"
SAID = [*ANSWER.encode(), END]
"""Tokens of the answer: one a byte, and the one that ends it."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(FakeEngine()) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=20, trust_env=False) as client:
        yield client


def name_of(token: int) -> str:
    """Return how a token of the toy vocabulary is spelled."""
    return "<|end|>" if token == END else "<|start|>" if token == 256 else spelled(bytes([token]))


def logprob_of(token: int) -> float:
    """Return what the toy model gives it."""
    return -0.25 - token % 2


def events(response: httpx.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def check_content(content: list[Any], count: int) -> None:
    """Check a list of tokens in the form of chats."""
    assert [entry["token"] for entry in content] == [name_of(token) for token in SAID]
    assert [entry["logprob"] for entry in content] == [logprob_of(token) for token in SAID]
    assert bytes(byte for entry in content[:-1] for byte in entry["bytes"]).decode() == ANSWER
    for entry, token in zip(content, SAID, strict=True):
        likely = [token - token % 2 + step for step in range(count)]
        assert [top["token"] for top in entry["top_logprobs"]] == [name_of(other) for other in likely]
        assert [top["logprob"] for top in entry["top_logprobs"]] == [-0.25 - step for step in range(count)]


def test_a_chat_has_one_entry_for_each_token(client: httpx.Client) -> None:
    wanted = {"messages": [{"role": "user", "content": "hé"}], "logprobs": True, "top_logprobs": 2}
    answer = client.post(CHAT, json=wanted).json()
    [choice] = answer["choices"]
    check_content(choice["logprobs"]["content"], 2)
    assert choice["logprobs"]["refusal"] is None
    assert len(choice["logprobs"]["content"]) == answer["usage"]["completion_tokens"]
    streamed = events(client.post(CHAT, json={**wanted, "stream": True}))
    parts = [event["choices"][0]["logprobs"] for event in streamed]
    check_content([entry for part in parts if part for entry in part["content"]], 2)
    with_text = [event for event in streamed[1:] if event["choices"][0]["delta"].get("content")]
    assert all(event["choices"][0]["logprobs"] for event in with_text), "tokens come with their text"


def test_without_top_logprobs_there_are_none_and_without_logprobs_nothing(client: httpx.Client) -> None:
    wanted = {"messages": [{"role": "user", "content": "hé"}]}
    answer = client.post(CHAT, json={**wanted, "logprobs": True}).json()
    check_content(answer["choices"][0]["logprobs"]["content"], 0)
    for fields in ({}, {"logprobs": False}, {"logprobs": False, "top_logprobs": 0}):
        assert client.post(CHAT, json={**wanted, **fields}).json()["choices"][0]["logprobs"] is None
    refused = client.post(CHAT, json={**wanted, "top_logprobs": 2})
    assert refused.status_code == 400
    assert "top_logprobs: needs logprobs: true." in refused.json()["error"]["message"]


def test_openais_client_reads_them_while_they_stream(url: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    messages = [{"role": "user", "content": "hé"}]
    with client.chat.completions.stream(model="toy", messages=messages, logprobs=True, top_logprobs=1) as stream:
        done = stream.get_final_completion()
    assert [entry.token for entry in done.choices[0].logprobs.content] == [name_of(token) for token in SAID]
    text = client.completions.create(model="toy", prompt="hé", max_tokens=4, logprobs=1)
    assert text.choices[0].logprobs.tokens == ["Y", "o", "u", " "]


def test_a_text_has_four_lists(client: httpx.Client) -> None:
    wanted = {"prompt": "hé", "logprobs": 1, "max_tokens": 64}
    whole = client.post(TEXT, json=wanted).json()["choices"][0]["logprobs"]
    assert whole["tokens"] == [name_of(token) for token in SAID]
    assert whole["tokens"][-3:-1] == ["bytes:\\xc3", "bytes:\\xa9"]
    assert whole["token_logprobs"] == [logprob_of(token) for token in SAID]
    assert whole["text_offset"] == [*range(11), 11, 11, 12][: len(SAID)]
    assert whole["top_logprobs"][0] == {"X": -0.25, "Y": -1.25}, "the token itself is always among them"
    assert whole["top_logprobs"][3] == {" ": -0.25}
    streamed = [event["choices"][0] for event in events(client.post(TEXT, json={**wanted, "stream": True}))]
    for name, values in whole.items():
        assert [value for choice in streamed for value in (choice["logprobs"] or {name: []})[name]] == values


@pytest.mark.parametrize("stream", [False, True])
def test_an_echoed_prompt_is_scored_from_its_second_token_on(client: httpx.Client, stream: bool) -> None:
    wanted = {"prompt": "abé", "logprobs": 0, "max_tokens": 1, "echo": True, "stream": stream}
    response = client.post(TEXT, json=wanted)
    choices = [event["choices"][0] for event in events(response)] if stream else response.json()["choices"]
    assert "".join(choice["text"] for choice in choices) == "abéY"
    found = {name: [] for name in ("tokens", "token_logprobs", "text_offset", "top_logprobs")}
    for choice in choices:
        for name, values in (choice["logprobs"] or {}).items():
            found[name] += values
    assert found["tokens"] == ["a", "b", "bytes:\\xc3", "bytes:\\xa9", "Y"]
    assert found["token_logprobs"] == [None, -0.25, -1.25, -1.25, -1.25]
    assert found["text_offset"] == [0, 1, 2, 2, 3]
    assert found["top_logprobs"][:2] == [None, {"b": -0.25}]


def test_prompts_of_token_ids_are_scored_too_and_nothing_need_be_written(client: httpx.Client) -> None:
    wanted = {"prompt": [[256, 97, 98], [99, 100]], "logprobs": 1, "max_tokens": 0, "echo": True}
    answer = client.post(TEXT, json=wanted).json()
    first, second = answer["choices"]
    assert (first["text"], second["text"]) == ("<|start|>ab", "cd")
    assert first["logprobs"]["tokens"] == ["<|start|>", "a", "b"]
    assert first["logprobs"]["text_offset"] == [0, 9, 10]
    assert second["logprobs"]["token_logprobs"] == [None, -0.25]
    assert {first["finish_reason"], second["finish_reason"]} == {"length"}
    assert answer["usage"]["completion_tokens"] == 0


def ranked(prompt: bytes, count: int) -> list[Any]:
    """Return what vLLM's form has for a prompt of the toy model."""
    found: list[Any] = [None]
    for token in prompt[1:]:
        best = token - token % 2
        likely = [(token, logprob_of(token)), *((best + step, -0.25 - step) for step in range(count))]
        found.append(
            {
                str(other): {
                    "logprob": logprob,
                    "rank": other - best + 1 if other - best < count else None,
                    "decoded_token": name_of(other),
                }
                for other, logprob in likely
            }
        )
    return found


@pytest.mark.parametrize("count", [0, 2])
def test_prompts_have_scores_in_vllms_form(client: httpx.Client, count: int) -> None:
    wanted = {"prompt": ["abcd", "xy"], "prompt_logprobs": count, "n": 2}
    choices = client.post(TEXT, json=wanted).json()["choices"]
    assert [choice["prompt_logprobs"] for choice in choices] == [
        ranked(text, count) for text in [b"abcd"] * 2 + [b"xy"] * 2
    ]
    assert all(choice["logprobs"] is None for choice in choices)
    chat = {"messages": [{"role": "user", "content": "hi"}], "prompt_logprobs": count, "logprobs": True}
    answer = client.post(CHAT, json=chat).json()
    first, *others = answer["prompt_logprobs"]
    assert (first, len(others)) == (None, answer["usage"]["prompt_tokens"] - 1)
    assert answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []


def test_scores_of_a_prompt_and_of_an_answer_are_counted_apart(client: httpx.Client) -> None:
    wanted = {"prompt": "abcd", "prompt_logprobs": 1, "logprobs": 2, "echo": True, "max_tokens": 3}
    (choice,) = client.post(TEXT, json=wanted).json()["choices"]
    assert [len(top) for top in choice["logprobs"]["top_logprobs"][1:]] == [2] * 6
    assert [len(entry) for entry in choice["prompt_logprobs"][1:]] == [1, 2, 1]
    without = {**wanted, "prompt_logprobs": None}
    assert choice["logprobs"] == client.post(TEXT, json=without).json()["choices"][0]["logprobs"]
    silent = {**wanted, "logprobs": None}
    (echoed,) = client.post(TEXT, json=silent).json()["choices"]
    assert (echoed["logprobs"], echoed["prompt_logprobs"]) == (None, choice["prompt_logprobs"])


@pytest.mark.parametrize("fields", [{"stream": True}, {"prompt_logprobs": 21}, {"prompt_logprobs": -1}])
def test_scores_of_a_prompt_that_cannot_be_had_are_refused(client: httpx.Client, fields: dict[str, Any]) -> None:
    answer = client.post(TEXT, json={"prompt": "abcd", "prompt_logprobs": 1, **fields})
    assert answer.status_code == 400
    assert "prompt_logprobs" in answer.json()["error"]["message"].lower()


def test_an_echo_without_logprobs_comes_first_in_a_stream(client: httpx.Client) -> None:
    wanted = {"prompt": "ab", "max_tokens": 1, "echo": True, "stream": True}
    texts = [event["choices"][0]["text"] for event in events(client.post(TEXT, json=wanted))]
    assert "".join(texts) == "abY" and texts[0].startswith("ab")


def test_a_response_has_them_where_it_includes_them(client: httpx.Client) -> None:
    wanted = {"input": "hé", "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    response = client.post(RESPONSES, json=wanted).json()
    check_content(response["output"][0]["content"][0]["logprobs"], 2)
    assert response["top_logprobs"] == 2
    streamed = events(client.post(RESPONSES, json={**wanted, "stream": True}))
    deltas = [event["logprobs"] for event in streamed if event["type"] == "response.output_text.delta"]
    check_content([entry for delta in deltas for entry in delta], 2)
    [ended] = [event for event in streamed if event["type"] == "response.output_text.done"]
    check_content(ended["logprobs"], 2)
    [part] = client.post(RESPONSES, json={"input": "hé"}).json()["output"][0]["content"]
    assert part["logprobs"] == []


def test_offsets_leave_out_what_a_tokenizer_adds_to_a_text() -> None:
    class Spacing:
        """Begins each text with a control token and a space."""

        size, eog, controls = 9, frozenset({0}), frozenset({"<s>"})
        bos, eos, infill = 0, 0, None

        def tokenize(self, text: str, special: bool, begin: bool = True) -> list[int]:
            raise NotImplementedError

        def piece(self, token: int, special: bool = False) -> bytes:
            return (b"<s>" if special else b"") if token == 0 else {1: b" Hello", 2: b" world", 3: b"!"}[token]

    scoring = Scoring(Spacing(), [0, 1, 2], "Hello world", NumTop(0))
    scoring.take([Score(Pos(pos), Token(pos), -1.0, ()) for pos in range(1, 5)])
    assert [scored.offset for scored in scoring.prompt()] == [0, 0, 5]
    scoring.push(3, 0, is_thought=False)
    scoring.push(0, 1, is_thought=False)
    last = of_text(scoring.drain())
    assert last is not None and (last["text_offset"], last["tokens"]) == ([11, 12], ["!", "<s>"])


def test_what_is_thought_is_not_scored() -> None:
    service = make_service(FakeEngine())
    scoring = Scoring(service.vocabulary, [97], None, NumTop(0))
    scoring.take([Score(Pos(pos), Token(98), -1.0, ()) for pos in range(1, 4)])
    for index, is_thought in enumerate((True, True, False)):
        scoring.push(98, index, is_thought)
    assert len(scoring.drain()) == 1
    assert scoring.drain() == ()
