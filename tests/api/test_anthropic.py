"""Anthropic's own client on a real model."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import pytest

from tests.api.conftest import ASK_FOR_CALL, DESCRIPTION, KEY, PARAMETERS, WEATHER

pytestmark = pytest.mark.api

MODEL = "claude-of-some-kind"
QUESTION = "What is the capital of France? Answer with one word."
TOOLS: Any = [{"name": "get_weather", "description": DESCRIPTION, "input_schema": PARAMETERS}]


@pytest.fixture(scope="module")
def client(url: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key=KEY, max_retries=0, timeout=60)


def say(text: str) -> Any:
    return [{"role": "user", "content": text}]


def test_a_message_is_answered_the_same_streamed_or_not(client: anthropic.Anthropic) -> None:
    wanted: dict[str, Any] = {"model": MODEL, "max_tokens": 24, "system": "Be brief.", "messages": say(QUESTION)}
    whole = client.messages.create(**wanted)
    [block] = whole.content
    assert block.type == "text"
    assert "Paris" in block.text
    assert whole.stop_reason == "end_turn"
    with client.messages.stream(**wanted) as stream:
        text = "".join(stream.text_stream)
        done = stream.get_final_message()
    assert text == block.text
    assert (done.stop_reason, done.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)
    assert done.usage.cache_read_input_tokens, "the same prompt a second time"
    assert done.usage.input_tokens + done.usage.cache_read_input_tokens >= whole.usage.input_tokens


def test_a_tool_is_called_and_its_result_is_read(client: anthropic.Anthropic) -> None:
    messages = say(ASK_FOR_CALL)
    with client.messages.stream(model=MODEL, max_tokens=64, tools=TOOLS, messages=messages) as stream:
        asked = stream.get_final_message()
    [use] = asked.content
    assert use.type == "tool_use"
    assert (use.name, use.input, asked.stop_reason) == ("get_weather", {"city": "Paris"}, "tool_use")
    result = {"type": "tool_result", "tool_use_id": use.id, "content": [{"type": "text", "text": WEATHER}]}
    messages += [{"role": "assistant", "content": asked.content}, {"role": "user", "content": [result]}]
    answer = client.messages.create(model=MODEL, max_tokens=64, tools=TOOLS, messages=messages)
    [block] = answer.content
    assert block.type == "text"
    assert "21 C" in block.text


def test_an_answer_may_be_begun_and_stopped(client: anthropic.Anthropic) -> None:
    messages = [*say(QUESTION), {"role": "assistant", "content": "The capital of France is"}]
    answer = client.messages.create(model=MODEL, max_tokens=16, messages=messages, stop_sequences=["Paris"])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "Paris")


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
def test_a_call_is_forced_on_who_would_rather_talk(client: anthropic.Anthropic, choice: Any) -> None:
    answer = client.messages.create(
        model=MODEL, max_tokens=128, messages=say("Tell me a joke."), tools=TOOLS, tool_choice=choice
    )
    (block,) = [block for block in answer.content if block.type == "tool_use"]
    assert (block.name, answer.stop_reason) == ("get_weather", "tool_use")
    assert isinstance(block.input["city"], str)


def test_an_answer_keeps_to_a_schema(client: anthropic.Anthropic) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    config: Any = {"format": {"type": "json_schema", "schema": schema}}
    answer = client.messages.create(model=MODEL, max_tokens=64, messages=say("Pick one."), output_config=config)
    (block,) = answer.content
    assert block.type == "text" and json.loads(block.text)["n"] in (1, 2)


def test_tokens_are_counted(client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(model=MODEL, system="Be brief.", messages=say(QUESTION), tools=TOOLS)
    answer = client.messages.create(model=MODEL, max_tokens=1, system="Be brief.", messages=say(QUESTION), tools=TOOLS)
    assert counted.input_tokens == answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0)
    assert answer.stop_reason == "max_tokens"


def test_models_are_listed(client: anthropic.Anthropic) -> None:
    assert all(model.type == "model" and model.display_name for model in client.models.list())


def test_errors_have_the_types_the_client_knows(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="gpt", max_tokens=1, messages=say("hi"))
    with pytest.raises(anthropic.BadRequestError, match="no tool is offered"):
        client.messages.create(model=MODEL, max_tokens=1, messages=say("hi"), tool_choice={"type": "any"})
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
        client.messages.create(model=MODEL, max_tokens=1, messages=say("a " * 3000))
    with pytest.raises(anthropic.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
