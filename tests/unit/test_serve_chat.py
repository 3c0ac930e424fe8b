"""Requests in the shapes that real clients send: chats, prefills, several answers, numbers that say "default"."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest
from serve_fake import TURNS, FakeEngine, make_service, serving

from mpispec.serve.api.chat import ChatRequest
from mpispec.serve.api.request import LIMITS, NEUTRAL, REASONS
from mpispec.serve.text.service import Service

pytestmark = pytest.mark.unit

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}


def say(text: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **fields}


def events_of(response: httpx.Response) -> list[Any]:
    assert response.status_code == 200, response.text
    *events, done = [event.removeprefix("data: ") for event in response.text.split("\n\n") if event]
    assert done == "[DONE]"
    return [json.loads(event) for event in events]


def rendered(service: Service, **fields: Any) -> str:
    """Return the prompt's text for the body of a chat request."""
    return service.prompts.text(ChatRequest.model_validate_json(json.dumps(fields)).dialogue())


@pytest.fixture(scope="module")
def service() -> Service:
    """A template that shows all it is given."""
    engine = FakeEngine()
    engine.join()
    return make_service(engine, template="{{ messages | tojson }}{{ enable_thinking }}{{ reasoning_effort }}")


@pytest.mark.parametrize(
    ("message", "plain"),
    [
        ({"role": "assistant"}, {"content": ""}),
        ({"role": "assistant", "content": None}, {"content": ""}),
        ({"role": "assistant", "content": None, "tool_calls": [CALL]}, {"content": "", "tool_calls": [CALL]}),
        ({"role": "assistant", "content": "", "tool_calls": None}, {"content": ""}),
        ({"role": "assistant", "content": "x", "reasoning": "y"}, {"content": "x", "reasoning_content": "y"}),
        ({"role": "tool", "tool_call_id": "c1", "content": "9 C"}, {"content": "9 C", "tool_call_id": "c1"}),
        ({"role": "tool", "content": None}, {"content": ""}),
        ({"role": "tool", "content": [{"type": "text", "text": "9"}]}, {"content": "9"}),
        ({"role": "developer", "content": "x"}, {"role": "system", "content": "x"}),
        ({"role": "system", "content": [{"type": "text", "text": "x"}]}, {"content": "x"}),
        ({"role": "user", "content": "x", "name": "Ann"}, {"content": "x", "name": "Ann"}),
        ({"role": "user", "content": ["a", {"type": "input_text", "text": "b"}]}, {"content": "a\nb"}),
        ({"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}, {"content": "No."}),
    ],
)
def test_messages_have_many_shapes(message: dict[str, Any], plain: dict[str, Any]) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "hi"}, message]})
    assert ChatRequest.model_validate_json(body).dialogue().messages[1] == {"role": message["role"], **plain}


@pytest.mark.parametrize(("given", "plain"), [({"city": "Tromsø"}, '{"city": "Tromsø"}'), (None, "{}"), ("{x", "{x")])
def test_arguments_become_text(given: Any, plain: str) -> None:
    call = {"function": {"name": "weather", "arguments": given}}
    body = json.dumps({"messages": [{"role": "assistant", "tool_calls": [call]}]})
    [message] = ChatRequest.model_validate_json(body).dialogue().messages
    function = {"name": "weather", "arguments": plain}
    assert message["tool_calls"] == [{"id": "", "type": "function", "function": function}]


@pytest.mark.parametrize(
    ("fields", "end"),
    [
        ({"chat_template_kwargs": {"enable_thinking": False}}, "]False"),
        ({"enable_thinking": False}, "]False"),
        ({"thinking": {"type": "disabled"}}, "]False"),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, "]True"),
        ({"thinking": {"type": "auto"}}, "]"),
        ({"enable_thinking": True, "chat_template_kwargs": {"enable_thinking": False}}, "]False"),
        ({"reasoning_effort": "high"}, "]high"),
        ({"reasoning_effort": "none"}, "]Falsenone"),
        ({"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}}, "]Truenone"),
        ({"chat_template_kwargs": None, "reasoning_effort": None}, "]"),
        ({"chat_template_kwargs": {"self": 1, "source": 2, "names": 3, "kwargs": 4}}, "]"),
    ],
)
def test_names_reach_the_template(service: Service, fields: dict[str, Any], end: str) -> None:
    assert rendered(service, **say("hi", **fields)).endswith(end)


@pytest.mark.parametrize("fields", [{"continue_final_message": True, "add_generation_prompt": False}, {"prefix": True}])
def test_the_answer_may_be_begun_by_the_client(client: httpx.Client, engine: FakeEngine, fields: Any) -> None:
    begun = {"role": "assistant", "content": "I say ", "prefix": fields.pop("prefix", None)}
    wanted = {"messages": [{"role": "user", "content": "hi"}, begun], **fields}
    assert client.post(CHAT, json=wanted).status_code == 200
    text = bytes(token if token < 256 else ord("|") for token in engine.generations[0].prompt)
    assert text == b"|user\nhi||assistant\nI say "


def test_a_prompt_may_leave_out_the_assistants_beginning() -> None:
    engine = FakeEngine()
    engine.join()
    service = make_service(engine)
    assert rendered(service, **say("hi", add_generation_prompt=False)) == "<|start|>user\nhi<|end|>"


def test_a_begun_answer_that_the_template_hides_is_refused() -> None:
    template = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    engine = FakeEngine()
    begun = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "x", "prefix": True}]
    with serving(engine, service=make_service(engine, template=template)) as url:
        refused = httpx.post(url + CHAT, json={"messages": begun}, trust_env=False)
    assert refused.status_code == 400
    assert "cannot be continued" in refused.json()["error"]["message"]


DEFAULTS = [
    {"seed": -1},
    {"seed": None},
    {"max_tokens": -1},
    {"max_completion_tokens": -1.0},
    {"top_k": -1},
    {"stop": None},
    {"stop": ""},
    {"stop": ["", ""]},
    {"logit_bias": []},
    {"model": ""},
    {"n": None},
    {"user": "me", "metadata": {"a": "b"}, "store": True, "parallel_tool_calls": True, "service_tier": "auto"},
]


@pytest.mark.parametrize("fields", DEFAULTS, ids=str)
def test_what_clients_send_for_the_default_is_the_default(
    client: httpx.Client, engine: FakeEngine, fields: dict[str, Any]
) -> None:
    answer = client.post(CHAT, json=say("hi", **fields))
    assert answer.status_code == 200, answer.text
    [generation] = engine.generations
    assert generation.max_tokens == engine.facts.context - len(generation.prompt)
    assert (generation.sampling.top_k, answer.json()["seed"]) == (0, generation.sampling.seed)


@pytest.mark.parametrize("body", [say("hi"), {"prompt": "hi"}], ids=["chat", "text"])
@pytest.mark.parametrize("name", [*LIMITS, "max_completion_tokens"])
def test_a_limit_has_several_names_and_may_be_a_whole_float(
    client: httpx.Client, engine: FakeEngine, body: dict[str, Any], name: str
) -> None:
    path = TEXT if "prompt" in body else CHAT
    assert client.post(path, json={**body, "top_k": 40.0, "seed": 5.0, "top_p": 0, name: 7.0}).status_code == 200
    [generation] = engine.generations
    assert (generation.max_tokens, generation.sampling.top_k, generation.sampling.seed) == (7, 40, 5)


@pytest.mark.parametrize("name", ["stop", "stop_sequences", "stopping_strings", "stop_strings"])
def test_stop_strings_have_several_names(shared: httpx.Client, name: str) -> None:
    answer = shared.post(CHAT, json={**say("hi"), name: ["said", *(f"never {index}" for index in range(20))]}).json()
    assert (answer["choices"][0]["message"]["content"], answer["choices"][0]["finish_reason"]) == ("You ", "stop")


@pytest.mark.parametrize("name", ["seed", "random_seed", "sampling_seed"])
def test_a_seed_has_several_names(client: httpx.Client, engine: FakeEngine, name: str) -> None:
    assert client.post(TEXT, json={"prompt": "hi", name: 5}).status_code == 200
    assert engine.generations[0].sampling.seed == 5


def test_what_would_change_an_answer_is_refused_and_its_neutral_values_are_not(shared: httpx.Client) -> None:
    """On texts too; of some it depends on the endpoint."""
    elsewhere = {"suffix", "logprobs", "top_logprobs", "prompt_logprobs", "echo", "best_of"}
    for name, neutral in NEUTRAL.items():
        if name in elsewhere:
            continue
        for path, body in ((CHAT, say("hi")), (TEXT, {"prompt": "hi"})):
            error = shared.post(path, json={**body, name: "something"}).json()["error"]
            assert (error["param"], error["code"]) == (name, "unsupported_parameter")
            assert error["message"].startswith(f"{name} is not supported. "), "and what to do"
            for value in (None, *neutral):
                assert shared.post(path, json={**body, name: value}).status_code == 200, (name, value)


def test_what_to_do_instead_is_something_that_is_done(shared: httpx.Client) -> None:
    assert REASONS.keys() <= NEUTRAL.keys()
    for remedy in REASONS.values():
        wanted = re.match(r"Send (\w+)[.:]", remedy)
        assert wanted is None or wanted[1] in ChatRequest.model_fields


def test_a_body_may_begin_with_a_byte_order_mark(shared: httpx.Client) -> None:
    assert shared.post(CHAT, content=b"\xef\xbb\xbf" + json.dumps(say("hi")).encode()).status_code == 200


def test_several_answers_have_seeds_of_their_own(client: httpx.Client, engine: FakeEngine) -> None:
    answer = client.post(CHAT, json=say("hi", n=3, seed=2**64 - 2)).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert {choice["message"]["content"] for choice in answer["choices"]} == {"You said: hi"}
    assert [generation.sampling.seed for generation in engine.generations] == [2**64 - 2, 2**64 - 1, 0]
    assert answer["usage"]["prompt_tokens"] == len(engine.generations[0].prompt)
    assert answer["usage"]["completion_tokens"] == 3 * 13
    assert len(answer["mpispec"]["choices"]) == 3


def test_several_answers_are_streamed_side_by_side(shared: httpx.Client) -> None:
    events = events_of(shared.post(CHAT, json=say("hi", n=2, stream=True, stream_options={"include_usage": True})))
    usage = events.pop()
    texts = {0: "", 1: ""}
    for choice in (event["choices"][0] for event in events):
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == {0: "You said: hi", 1: "You said: hi"}
    assert sorted(event["choices"][0]["index"] for event in events if "mpispec" in event) == [0, 1]
    assert usage["usage"]["completion_tokens"] == 2 * 13


@pytest.mark.parametrize("prompts", [["a", "b"], [[97], [98]], ["a", [98]]])
def test_several_prompts_are_answered_in_order(client: httpx.Client, engine: FakeEngine, prompts: list[Any]) -> None:
    answer = client.post(TEXT, json={"prompt": prompts, "n": 2, "seed": 4, "best_of": 1}).json()
    texts = [choice["text"] for choice in answer["choices"]]
    assert texts == ["You said: a", "You said: a", "You said: b", "You said: b"]
    assert [generation.sampling.seed for generation in engine.generations] == [4, 5, 4, 5]
    assert answer["usage"]["prompt_tokens"] == 2


def test_the_prompt_is_echoed(shared: httpx.Client) -> None:
    wanted = {"prompt": ["hi", [257, *b"ho"]], "echo": True}
    texts = [choice["text"] for choice in shared.post(TEXT, json=wanted).json()["choices"]]
    assert texts == ["hiYou said: hi", "<|end|>hoYou said: ho"]
    events = events_of(shared.post(TEXT, json={**wanted, "stream": True}))
    streamed = ["", ""]
    for choice in (event["choices"][0] for event in events):
        streamed[choice["index"]] += choice["text"]
    assert streamed == texts


def test_a_request_for_more_answers_than_fit_takes_no_place(client: httpx.Client, engine: FakeEngine) -> None:
    with client.stream("POST", CHAT, json=say("wait", stream=True, n=2)):
        engine.await_requests(2)
        assert client.post(CHAT, json=say("hi", n=64)).status_code == 503
        assert len(engine.generations) == 2
    for request in (1, 2):
        engine.await_withdrawn(request)
    assert client.post(CHAT, json=say("hi", n=64)).status_code == 200


def test_an_engine_that_refuses_one_of_several_answers_none_of_them(client: httpx.Client, engine: FakeEngine) -> None:
    assert client.post(TEXT, json={"prompt": ["a", "b"], "top_k": 13}).status_code == 400
    assert client.post(TEXT, json={"prompt": ["a"] * 64}).status_code == 200


PARTS = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{% for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %}"
    "<|end|>{% endfor %}{{ '<|start|>assistant\n' }}"
)


def test_a_template_that_wants_parts_gets_them() -> None:
    engine = FakeEngine()
    engine.join()
    service = make_service(engine, template=PARTS)
    assert rendered(service, **say("Say hello")) == "<|start|>user\nSay hello<|end|><|start|>assistant\n"
    assert rendered(make_service(engine, template=TURNS), **say("Say hello")) == rendered(service, **say("Say hello"))
