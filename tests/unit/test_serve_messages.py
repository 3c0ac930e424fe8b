"""POST /v1/messages: what Anthropic's clients send, and the events that they parse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from serve_fake import TURNS, FakeEngine, connected, make_service, serving

from mpispec.serve.api.messages import MessagesRequest

pytestmark = pytest.mark.unit

PATH = "/v1/messages"
TOOL = {"name": "weather", "description": "The weather.", "input_schema": {"type": "object", "properties": {}}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
RESULT = {"type": "tool_result", "tool_use_id": "x"}
THINKING = TURNS.replace("assistant\n", "assistant\n<think>\n") + "{# </think> #}"


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with connected(FakeEngine(4096)) as client:
        yield client


def say(text: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "toy", "max_tokens": 500, "messages": [{"role": "user", "content": text}], **fields}


def ask(client: httpx.Client, written: str, **fields: Any) -> dict[str, Any]:
    """Have a model write something; return the message, the same whether streamed or not."""
    body = say(f"write:{written}", **fields)
    answer = client.post(PATH, json=body)
    assert answer.status_code == 200, answer.text
    whole: dict[str, Any] = answer.json()
    streamed = assembled(client.post(PATH, json={**body, "stream": True}))
    for name in ("role", "stop_reason", "stop_sequence", "usage"):
        assert streamed[name] == whole[name]
    blocks = [{name: value for name, value in block.items() if name != "id"} for block in whole["content"]]
    assert streamed["content"] == blocks
    return whole


def assembled(response: httpx.Response) -> dict[str, Any]:
    """Put a streamed message together as clients do."""
    message: dict[str, Any] = {}
    for text in response.text.strip().split("\n\n"):
        name, _, data = text.partition("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        match event:
            case {"type": "message_start"}:
                message = event["message"]
            case {"type": "content_block_start"}:
                assert event["index"] == len(message["content"])
                message["content"].append({**event["content_block"], "json": ""})
            case {"type": "content_block_delta", "delta": {"type": "text_delta", "text": text}}:
                message["content"][event["index"]]["text"] += text
            case {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": text}}:
                message["content"][event["index"]]["thinking"] += text
            case {"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": text}}:
                message["content"][event["index"]]["json"] += text
            case {"type": "message_delta"}:
                message |= event["delta"]
                message["usage"] |= event["usage"]
    assert event["type"] == "message_stop"
    for block in message["content"]:
        written = block.pop("json")
        block.pop("id", None)
        if block["type"] == "tool_use":
            block["input"] = json.loads(written)
    return message


def messages_of(*messages: Any, **fields: Any) -> Any:
    body = {"messages": list(messages), **fields}
    return MessagesRequest.model_validate_json(json.dumps(body)).dialogue().messages


def test_blocks_become_messages() -> None:
    use = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Oslo"}}
    found = messages_of(
        {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm.", "signature": "x"},
                                          {"type": "redacted_thinking", "data": "x"},
                                          {"type": "text", "text": "I look."}, use]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "9 C"},
                                     {"type": "tool_result", "tool_use_id": "t2", "is_error": True},
                                     {"type": "text", "text": "And?"}]},
        system=[{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}],
    )  # fmt: skip
    function = {"name": "weather", "arguments": '{"city": "Oslo"}'}
    calls = [{"id": "t1", "type": "function", "function": function}]
    assert found == [
        {"role": "system", "content": "Be\nbrief."},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "I look.", "reasoning_content": "Hm.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "t1", "content": "9 C"},
        {"role": "tool", "tool_call_id": "t2", "content": ""},
        {"role": "user", "content": "And?"},
    ]


def test_words_for_anthropics_accounts_are_left_out() -> None:
    accounts = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.197.7d5;"}
    assert messages_of(say("hi")["messages"][0], system=[accounts, {"type": "text", "text": "Be brief."}])[0] == {
        "role": "system",
        "content": "Be brief.",
    }
    assert messages_of(say("hi")["messages"][0], system=[accounts])[0]["role"] == "user"


def test_a_message_is_answered(client: httpx.Client) -> None:
    answer = ask(client, "Hello.", system="Be brief.", metadata={"user_id": "me"}, top_k=40, temperature=1)
    assert (answer["type"], answer["role"], answer["model"]) == ("message", "assistant", "toy")
    assert answer["content"] == [{"type": "text", "text": "Hello."}]
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("end_turn", None)
    assert answer["usage"]["output_tokens"] == len("Hello.") + 1


def test_what_was_cached_is_counted_apart() -> None:
    engine = FakeEngine(4096)
    with connected(engine) as client:
        fresh = ask(client, "Hello.")["usage"]
        engine.cached_tokens = 5
        usage = ask(client, "Hello.")["usage"]
    assert (fresh["cache_read_input_tokens"], usage["cache_read_input_tokens"]) == (0, 5)
    assert usage["input_tokens"] == fresh["input_tokens"] - 5


@pytest.mark.parametrize(
    ("fields", "reason", "sequence", "text"),
    [
        ({"stop_sequences": ["lo", "x"]}, "stop_sequence", "lo", "Hel"),
        ({"max_tokens": 3}, "max_tokens", None, "Hel"),
    ],
)
def test_why_an_answer_ends_is_said(
    client: httpx.Client, fields: dict[str, Any], reason: str, sequence: str | None, text: str
) -> None:
    answer = ask(client, "Hello.", **fields)
    assert (answer["stop_reason"], answer["stop_sequence"], answer["content"][0]["text"]) == (reason, sequence, text)


def test_calls_are_blocks(client: httpx.Client) -> None:
    tools = [TOOL, {"type": "web_search_20250305", "name": "web_search"}]
    answer = ask(client, f"I look.{CALL}{CALL}", tools=tools, tool_choice={"type": "auto"})
    text, first, second = answer["content"]
    assert text["text"] == "I look."
    assert (first["type"], first["name"], first["input"]) == ("tool_use", "weather", {"city": "Oslo"})
    assert first["id"] != second["id"]
    assert answer["stop_reason"] == "tool_use"


@pytest.mark.parametrize(
    ("choice", "num_calls"), [({"type": "auto", "disable_parallel_tool_use": True}, 1), ({"type": "none"}, 0)]
)
def test_how_many_calls_is_the_requests_choice(client: httpx.Client, choice: Any, num_calls: int) -> None:
    answer = ask(client, f"{CALL}{CALL}", tools=[TOOL], tool_choice=choice)
    assert sum(block["type"] == "tool_use" for block in answer["content"]) == num_calls


def test_a_call_that_is_cut_has_no_input(client: httpx.Client) -> None:
    cut = client.post(PATH, json=say(f"write:{CALL}", tools=[TOOL], max_tokens=CALL.index("Oslo"))).json()
    assert (cut["content"][0]["input"], cut["stop_reason"]) == ({}, "max_tokens")


def test_thoughts_are_blocks() -> None:
    engine = FakeEngine(4096)
    with connected(engine, make_service(engine, template=THINKING)) as client:
        answer = ask(client, "Hm.</think>Yes.", thinking={"type": "enabled", "budget_tokens": 1024})
    assert answer["content"][0] == {"type": "thinking", "thinking": "Hm.", "signature": ""}
    assert answer["content"][1]["text"] == "Yes."


@pytest.mark.parametrize(
    ("kind", "names"), [("enabled", {"enable_thinking": True}), ("disabled", {"enable_thinking": False}), ("x", {})]
)
def test_whether_to_think_reaches_the_template(kind: str, names: dict[str, bool]) -> None:
    body = say("hi", thinking={"type": kind})
    assert MessagesRequest.model_validate_json(json.dumps(body)).dialogue().names == names


def test_a_last_message_of_the_assistant_is_continued() -> None:
    engine = FakeEngine()
    begun = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "I say"}]
    with serving(engine) as url:
        assert httpx.post(url + PATH, json=say("x") | {"messages": begun}, trust_env=False).status_code == 200
    assert bytes(token % 256 for token in engine.generations[0].prompt).endswith(b"assistant\nI say")


def test_tokens_are_counted(client: httpx.Client) -> None:
    body = say("write:x", system="Be brief.")
    counted = client.post(f"{PATH}/count_tokens", json={"messages": body["messages"], "system": body["system"]}).json()
    assert counted == {"input_tokens": client.post(PATH, json=body).json()["usage"]["input_tokens"]}


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": []},
        {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
        {"messages": [{"role": "user", "content": [1]}]},
        {"messages": [{"role": "user", "content": 1}]},
        {"messages": [{"role": "critic", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{**RESULT, "content": 5}]}]},
        {"messages": [{"role": "user", "content": [{**RESULT, "content": [{"type": "text"}]}]}]},
        {"system": [{"type": "image"}]},
        {"tools": [{"description": "x"}]},
        {"tools": [1]},
        {"tool_choice": {"type": "any"}},
        {"tool_choice": {"type": "tool", "name": "weather"}},
        {"tool_choice": {"type": "some"}},
        {"max_tokens": 0},
        {"messages": [{"role": "user", "content": "x" * 5000}]},
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_in_anthropics_form(client: httpx.Client, fields: dict[str, Any]) -> None:
    answer = client.post(PATH, json=say("hi") | fields)
    assert answer.status_code == 400, answer.text
    error = answer.json()
    assert (error["type"], error["error"]["type"]) == ("error", "invalid_request_error")
    assert error["error"]["message"]


def test_other_errors_have_that_form_too(client: httpx.Client) -> None:
    assert client.get(PATH).json()["error"]["type"] == "invalid_request_error"
    assert client.post(PATH, json=say("hi", model="gpt")).json()["error"]["type"] == "not_found_error"
    with serving(FakeEngine(), key="secret") as url:
        refused = httpx.post(url + PATH, json=say("hi"), trust_env=False)
    assert (refused.status_code, refused.json()["error"]["type"]) == (401, "authentication_error")


def test_an_engine_that_stops_ends_the_stream_with_an_error() -> None:
    engine = FakeEngine()
    with (
        connected(engine) as client,
        client.stream("POST", PATH, json=say("wait", stream=True)) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        engine.stop()
        *_, name, data = [line for line in lines if line]
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"]["type"] == "overloaded_error"
