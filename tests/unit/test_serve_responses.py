"""POST /v1/responses: what agents send, and the events that they parse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from serve_fake import TURNS, FakeEngine, connected, make_service

from mpispec.serve.api.responses import ResponsesRequest

pytestmark = pytest.mark.unit

PATH = "/v1/responses"
FUNCTION = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}, "strict": True}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
THINKING = TURNS.replace("assistant\n", "assistant\n<think>\n") + "{# </think> #}"


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with connected(FakeEngine(4096)) as client:
        yield client


@pytest.fixture(scope="module")
def thinker() -> Iterator[httpx.Client]:
    engine = FakeEngine(4096)
    with connected(engine, make_service(engine, template=THINKING)) as client:
        yield client


def respond(client: httpx.Client, written: str, **fields: Any) -> dict[str, Any]:
    answer = client.post(PATH, json={"input": f"write:{written}", **fields})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def events_of(client: httpx.Client, written: str, **fields: Any) -> list[dict[str, Any]]:
    """Return the events of a stream, whose names and numbers are right."""
    answer = client.post(PATH, json={"input": f"write:{written}", "stream": True, **fields})
    events = []
    for number, text in enumerate(answer.text.strip().split("\n\n")):
        name, _, data = text.partition("\n")
        event = json.loads(data.removeprefix("data: "))
        assert (name, event["sequence_number"]) == (f"event: {event['type']}", number)
        events.append(event)
    return events


def messages_of(items: list[Any] | str, **fields: Any) -> Any:
    return ResponsesRequest.model_validate_json(json.dumps({"input": items, **fields})).dialogue().messages


def call_item(ident: str) -> dict[str, Any]:
    return {"type": "function_call", "id": "fc", "call_id": ident, "name": "weather", "arguments": '{"city": "Oslo"}'}


def test_an_input_becomes_messages() -> None:
    items = [
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Oslo?"}]},
        {"type": "reasoning", "id": "rs", "summary": [], "content": [{"type": "reasoning_text", "text": "Look."}]},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "I look.", "logprobs": []}],
        },
        call_item("c1"),
        call_item("c2"),
        {"type": "function_call_output", "call_id": "c1", "output": "9 C"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "8 C"}]},
        {"role": "assistant", "content": "9 C."},
    ]
    function = {"name": "weather", "arguments": '{"city": "Oslo"}'}
    calls = [{"id": ident, "type": "function", "function": function} for ident in ("c1", "c2")]
    assert messages_of(items, instructions="Rules.") == [
        {"role": "system", "content": "Rules."},
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Oslo?"},
        {"role": "assistant", "content": "I look.", "reasoning_content": "Look.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "9 C"},
        {"role": "tool", "tool_call_id": "c2", "content": "8 C"},
        {"role": "assistant", "content": "9 C."},
    ]


def test_calls_without_words_are_a_message() -> None:
    [message] = messages_of([call_item("c1")])
    assert (message["role"], message["content"], len(message["tool_calls"])) == ("assistant", "", 1)


def test_words_after_a_call_belong_to_its_message() -> None:
    [message] = messages_of(
        [{"role": "assistant", "content": "A."}, call_item("x"), {"role": "assistant", "content": "B."}]
    )
    assert message["content"] == "A.\nB."


def test_a_response_is_whole(client: httpx.Client) -> None:
    response = respond(client, "Hello.", seed=5, metadata={"a": "b"}, temperature=0.5, max_output_tokens=50)
    assert (response["object"], response["status"], response["error"]) == ("response", "completed", None)
    [item] = response["output"]
    assert (item["type"], item["role"], item["status"]) == ("message", "assistant", "completed")
    assert item["content"] == [{"type": "output_text", "text": "Hello.", "annotations": [], "logprobs": []}]
    assert response["usage"]["output_tokens"] == len("Hello.") + 1
    assert (response["seed"], response["temperature"], response["max_output_tokens"]) == (5, 0.5, 50)
    assert response["metadata"] == {"a": "b"}


def test_a_response_is_streamed(client: httpx.Client) -> None:
    events = events_of(client, "Hello.")
    names = [event["type"].removeprefix("response.") for event in events]
    deltas = names.count("output_text.delta")
    assert names == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        *["output_text.delta"] * deltas,
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert events[0]["response"]["output"] == []
    assert events[2]["item"]["status"] == "in_progress"
    assert "".join(event["delta"] for event in events if event["type"].endswith("text.delta")) == "Hello."
    final = events[-1]["response"]
    assert final["output"][0]["content"][0]["text"] == "Hello."
    assert final["usage"]["output_tokens"] == len("Hello.") + 1


def test_calls_are_items(client: httpx.Client) -> None:
    whole = respond(
        client, f"I look.{CALL}{CALL}", tools=[FUNCTION, {"type": "web_search"}, {"type": "custom", "name": "x"}]
    )
    message, first, second = whole["output"]
    assert message["content"][0]["text"] == "I look."
    assert (first["type"], first["name"], first["arguments"]) == ("function_call", "weather", '{"city": "Oslo"}')
    assert first["call_id"] != second["call_id"]
    assert [tool["name"] for tool in whole["tools"]] == ["weather", "x"]


NAMESPACE = {"type": "namespace", "name": "mcp__sky", "tools": [FUNCTION, {"type": "web_search"}, 1]}
PATCH = {
    "type": "custom",
    "name": "patch",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: /x+/"},
}


def written(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def test_a_tool_in_a_namespace_is_called_by_both_names(client: httpx.Client) -> None:
    whole = respond(client, written("mcp__sky__weather", city="Oslo"), tools=[NAMESPACE, PATCH])
    (item,) = whole["output"]
    assert (item["namespace"], item["name"], item["arguments"]) == ("mcp__sky", "weather", '{"city": "Oslo"}')
    space, custom = whole["tools"]
    assert (space["name"], [tool["name"] for tool in space["tools"]]) == ("mcp__sky", ["weather"])
    assert custom == PATCH
    (made_up,) = respond(client, written("<tool>"), tools=[NAMESPACE])["output"]
    assert (made_up["name"], "namespace" in made_up) == ("<tool>", False)


def test_a_custom_tool_is_called_with_a_text(client: httpx.Client) -> None:
    (item,) = respond(client, written("patch", input="a\n+b"), tools=[PATCH])["output"]
    assert (item["type"], item["name"], item["input"]) == ("custom_tool_call", "patch", "a\n+b")
    events = events_of(client, written("patch", input="a\n+b"), tools=[PATCH])
    kinds = {event["type"]: event for event in events}
    assert kinds["response.custom_tool_call_input.delta"]["delta"] == "a\n+b"
    assert kinds["response.custom_tool_call_input.done"]["input"] == "a\n+b"
    assert kinds["response.output_item.done"]["item"]["input"] == "a\n+b"
    cut = respond(client, written("patch", input="a" * 9), tools=[PATCH], max_output_tokens=52)["output"][0]
    assert (cut["input"], cut["status"]) == ('{"input":', "incomplete")


def test_a_custom_tool_shows_its_grammar() -> None:
    wanted = ResponsesRequest.model_validate_json(json.dumps({"input": "x", "tools": [PATCH, NAMESPACE]}))
    patch, weather = (tool["function"] for tool in wanted.dialogue().tools)
    assert (list(patch["parameters"]["properties"]), "start: /x+/" in patch["description"]) == (["input"], True)
    assert weather["name"] == "mcp__sky__weather"


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "function", "name": "weather", "namespace": "mcp__sky"},
        {"type": "allowed_tools", "mode": "required", "tools": [{"name": "weather", "namespace": "mcp__sky"}]},
    ],
)
def test_a_tool_in_a_namespace_may_be_chosen(choice: dict[str, Any]) -> None:
    fields = {"input": "x", "tools": [PATCH, NAMESPACE], "tool_choice": choice}
    assert ResponsesRequest.model_validate_json(json.dumps(fields)).dialogue().forced == ("mcp__sky__weather",)


def test_what_agents_have_done_before_is_read() -> None:
    messages = messages_of(
        [
            {"type": "web_search_call", "id": "ws_1", "status": "completed"},
            {"type": "custom_tool_call", "call_id": "1", "name": "patch", "input": "+b"},
            {"type": "custom_tool_call_output", "call_id": "1", "output": "Done."},
            {"type": "function_call", "call_id": "2", "name": "look", "namespace": "mcp__eye", "arguments": "{}"},
            {
                "type": "function_call_output",
                "call_id": "2",
                "output": [{"type": "input_text", "text": "Here:"}, {"type": "input_image", "image_url": "data:x"}],
            },
        ]
    )
    patch, done, look, seen = messages
    assert patch["tool_calls"][0]["function"] == {"name": "patch", "arguments": '{"input": "+b"}'}
    assert done["content"] == "Done."
    assert look["tool_calls"][0]["function"]["name"] == "mcp__eye__look"
    assert seen["content"] == "Here:\n[image: this model reads text alone]"


def test_arguments_are_streamed(client: httpx.Client) -> None:
    events = events_of(client, CALL, tools=[FUNCTION])
    added, *rest = [event for event in events if event.get("output_index") == 0]
    assert (added["item"]["name"], added["item"]["arguments"]) == ("weather", "")
    assert "".join(event.get("delta", "") for event in rest) == '{"city": "Oslo"}'
    done, ended = rest[-2:]
    assert (done["type"], done["arguments"]) == ("response.function_call_arguments.done", '{"city": "Oslo"}')
    assert events[-1]["response"]["output"] == [ended["item"]]


def test_thoughts_are_an_item_of_their_own(thinker: httpx.Client) -> None:
    whole = respond(thinker, "Hm.</think>Yes.")
    reasoning, message = whole["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "Hm."}]
    assert message["content"][0]["text"] == "Yes."
    assert whole["usage"]["output_tokens_details"]["reasoning_tokens"] == len("Hm.</think>")
    events = events_of(thinker, "Hm.</think>Yes.")
    assert "".join(event["delta"] for event in events if event["type"] == "response.reasoning_text.delta") == "Hm."
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["reasoning", "message"]


def test_a_response_that_is_cut_by_the_limit_says_so(client: httpx.Client) -> None:
    whole = respond(client, "Hello.", max_output_tokens=3)
    assert (whole["status"], whole["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert (whole["output"][0]["status"], whole["output"][0]["content"][0]["text"]) == ("incomplete", "Hel")
    assert events_of(client, "Hello.", max_output_tokens=3)[-1]["type"] == "response.incomplete"


def test_an_empty_answer_is_an_empty_message(client: httpx.Client) -> None:
    assert respond(client, "")["output"][0]["content"][0]["text"] == ""
    assert events_of(client, "")[-1]["response"]["output"][0]["content"][0]["text"] == ""


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "x"}}, "prompt"),
        ({"background": True}, "background"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [1]}, "tools[0]"),
        ({"tools": {}}, "tools"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"input": [1]}, "input"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input"),
        ({"input": [{"role": "user", "content": 5}]}, "input"),
        ({"input": [{"type": "function_call", "name": "x"}]}, "input"),
        ({"input": "x" * 5000}, "input"),
    ],
)
def test_what_cannot_be_done_is_named(client: httpx.Client, fields: dict[str, Any], param: str) -> None:
    answer = client.post(PATH, json={"input": "hi", **fields})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


HARMLESS = {
    "previous_response_id": None,
    "background": False,
    "text": {"format": {"type": "text"}, "verbosity": "low"},
    "reasoning": {"effort": "low", "summary": "auto"},
    "include": ["reasoning.encrypted_content"],
    "store": False,
    "truncation": "auto",
    "prompt_cache_key": "x",
    "tools": [{"type": "web_search"}],
    "tool_choice": "auto",
    "max_output_tokens": -1,
}


def test_what_changes_nothing_is_let_through(client: httpx.Client) -> None:
    assert respond(client, "Hello.", **HARMLESS)["status"] == "completed"


def test_an_engine_that_stops_fails_the_response() -> None:
    engine = FakeEngine()
    with (
        connected(engine) as client,
        client.stream("POST", PATH, json={"input": "wait", "stream": True}) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        engine.stop()
        last = json.loads([line for line in lines if line.startswith("data: ")][-1].removeprefix("data: "))
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert "stopped" in last["response"]["error"]["message"]


def test_openais_client_understands_it(client: httpx.Client) -> None:
    asked = openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0)
    assert asked.responses.create(model="toy", input="write:Hello.").output_text == "Hello."
    with asked.responses.stream(model="toy", input=f"write:{CALL}", tools=[FUNCTION]) as stream:
        [item] = stream.get_final_response().output
    assert (item.type, item.arguments) == ("function_call", '{"city": "Oslo"}')
