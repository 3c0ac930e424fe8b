"""Every route and every refusal, over real HTTP."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from serve_fake import DEADLINE, ByteVocabulary, FakeEngine, connected, make_service, serving

from mpispec.core.messages import Sampling
from mpispec.models.template import ChatTemplate
from mpispec.models.template_traits import TemplateTraits
from mpispec.serve.api.chat import ChatRequest
from mpispec.serve.http.address import MOST_OPEN
from mpispec.serve.http.body import MAX_BODY
from mpispec.serve.text.detokenizer import LEAST_TOKENS
from mpispec.serve.text.prompt import Prompts
from mpispec.serve.text.service import Manner

pytestmark = pytest.mark.unit

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


def say(text: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **fields}


def read_events(body: str) -> list[Any]:
    events = [event.removeprefix("data: ") for event in body.split("\n\n") if event]
    return [event if event == "[DONE]" else json.loads(event) for event in events]


def check_error(response: httpx.Response, status: int, param: str | None = None, code: str | None = None) -> str:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == ("server_error" if status >= 500 else "invalid_request_error")
    assert error["param"] == param
    if code is not None:
        assert error["code"] == code
    return str(error["message"])


def test_counters_can_be_read_twice_and_compared(client: httpx.Client) -> None:
    before = client.get("/stats").json()
    client.post(TEXT, json={"prompt": "hi"})
    after = client.get("/stats").json()
    assert after["requests"] == before["requests"] + 1
    assert after["dispatched"]["rows"] > before["dispatched"]["rows"]
    places = [(rank["rank"], rank["host"], rank["layers"], rank["busy_s"], rank["sent"]) for rank in after["ranks"]]
    assert places == [(0, "a", [[0, 9]], 1.5, [0, 1000]), (1, "b", [[10, 19]], 0.5, [300, 0])]


def test_a_chat_is_answered(shared: httpx.Client) -> None:
    answer = shared.post(CHAT, json=say("naïve 🙂", model="toy", seed=7)).json()
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    assert (answer["model"], answer["seed"]) == ("toy", 7)
    [choice] = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "You said: naïve 🙂", "refusal": None}
    assert choice["finish_reason"] == "stop"
    usage = answer["usage"]
    assert usage["completion_tokens"] == len("You said: naïve 🙂".encode()) + 1
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert answer["mpispec"] == {"timing": {"tokens_per_s": 12.5}, "speculation": {"acceptance_rate": 0.75}}


def test_content_may_have_parts_and_all_roles(client: httpx.Client, engine: FakeEngine) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    roles = [("developer", "Be kind."), ("user", "x"), ("assistant", "y"), ("user", parts)]
    messages = [{"role": role, "content": content, "name": "z"} for role, content in roles]
    answer = client.post(CHAT, json={"messages": messages}).json()
    assert answer["choices"][0]["message"]["content"] == "You said: a\nb"
    assert b"system\nBe kind." in bytes(token % 256 for token in engine.generations[0].prompt)


def test_a_chat_answer_is_streamed(shared: httpx.Client) -> None:
    wanted = say("hi", stream=True, stream_options={"include_usage": True})
    response = shared.post(CHAT, json=wanted)
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, ending, usage, done = read_events(response.text)
    assert done == "[DONE]"
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [event["choices"][0]["delta"]["content"] for event in events[1:]] == ["Y", "ou ", "sa", "i", "d: ", "hi"]
    assert ending["choices"][0]["delta"] == {}
    assert ending["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 13
    assert {event["id"] for event in [*events, ending, usage]} == {ending["id"]}
    assert {event["object"] for event in [*events, ending, usage]} == {"chat.completion.chunk"}


def test_a_text_is_completed(shared: httpx.Client) -> None:
    answer = shared.post(TEXT, json={"prompt": "forever"}).json()
    assert answer["object"] == "text_completion"
    assert answer["choices"][0]["text"] == "foreverforeverfo"
    assert answer["choices"][0]["finish_reason"] == "length"
    usage = answer["usage"]
    assert usage.pop("prompt_tokens_details") == {"cached_tokens": 0}
    assert usage == {"prompt_tokens": 7, "completion_tokens": 16, "total_tokens": 23}


def test_a_completion_is_streamed(shared: httpx.Client) -> None:
    response = shared.post(TEXT, json={"prompt": "forever", "max_tokens": 6, "stream": True})
    *events, ending, done = read_events(response.text)
    assert [event["choices"][0]["text"] for event in events] == ["f", "ore", "ve"]
    assert ending["choices"][0] == {"index": 0, "text": "", "logprobs": None, "finish_reason": "length"}
    assert done == "[DONE]"


@pytest.mark.parametrize("prompt", ["hi", ["hi"], list(b"hi"), [list(b"hi")]])
def test_a_prompt_has_four_forms(client: httpx.Client, engine: FakeEngine, prompt: Any) -> None:
    answer = client.post(TEXT, json={"prompt": prompt, "max_tokens": None}).json()
    assert answer["choices"][0]["text"] == "You said: hi"
    assert engine.generations[0].prompt == tuple(b"hi")


def test_all_fields_reach_the_engine(client: httpx.Client, engine: FakeEngine) -> None:
    fields = {
        "temperature": 1,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "repeat_penalty": 1.1,
        "repeat_last_n": 32,
        "seed": 2**64 - 1,
    }
    wanted = say("hi", max_tokens=5, max_completion_tokens=4, strategy="sync", drafter="draft", **fields)
    assert client.post(CHAT, json=wanted).status_code == 200
    [generation] = engine.generations
    assert {name: getattr(generation.sampling, name) for name in fields} == fields
    assert (generation.max_tokens, generation.strategy, generation.drafter) == (4, "sync", "draft")


def test_a_drafter_may_be_called_by_the_name_it_had(client: httpx.Client, engine: FakeEngine) -> None:
    assert client.post(CHAT, json=say("hi", proposer="draft")).status_code == 200
    assert engine.generations[0].drafter == "draft"


def test_defaults_fill_what_is_not_given(client: httpx.Client, engine: FakeEngine) -> None:
    seed = client.post(CHAT, json=say("hi", temperature=None)).json()["seed"]
    [generation] = engine.generations
    assert generation.sampling.seed == seed
    assert generation.max_tokens == engine.facts.context - len(generation.prompt)
    assert (generation.sampling.temperature, generation.strategy, generation.drafter) == (0.0, None, None)


def test_a_chat_answer_that_only_repeats_itself_is_cut(client: httpx.Client, engine: FakeEngine) -> None:
    answer = client.post(CHAT, json=say("forever")).json()
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == LEAST_TOKENS
    assert answer["mpispec"]["cut"] == "repeats"
    engine.await_withdrawn(1)
    *_, ending, done = read_events(client.post(CHAT, json=say("forever", stream=True)).text)
    assert done == "[DONE]"
    assert ending["choices"][0]["finish_reason"] == "stop"
    assert ending["mpispec"]["cut"] == "repeats"


def test_whether_repeats_are_cut_is_the_requests_choice(client: httpx.Client) -> None:
    whole = client.post(CHAT, json=say("forever", cut_repeats=False)).json()
    assert whole["choices"][0]["finish_reason"] == "length"
    assert "cut" not in whole["mpispec"]
    text = {"prompt": "forever", "max_tokens": 400}
    assert client.post(TEXT, json=text).json()["usage"]["completion_tokens"] == 400
    cut = client.post(TEXT, json={**text, "cut_repeats": True}).json()
    assert cut["usage"]["completion_tokens"] == LEAST_TOKENS


def test_the_requests_sampling_wins_over_the_servers() -> None:
    engine = FakeEngine()
    manner = Manner(Sampling(0.7, top_k=20), Sampling(min_p=0.5), seed=9, source="someone", cuts_repeats=False)
    with connected(engine, make_service(engine, manner)) as client:
        for fields in ({}, {"temperature": 0}, {"temperature": 1, "top_k": 0, "seed": 3}):
            assert client.post(CHAT, json=say("hi", **fields)).status_code == 200
        assert client.post(CHAT, json=say("forever")).json()["choices"][0]["finish_reason"] == "length"
        listed = client.get("/v1/models").json()["data"][0]["mpispec"]
    drawn = [generation.sampling for generation in engine.generations]
    assert drawn[:3] == [Sampling(0.7, top_k=20, seed=9), Sampling(min_p=0.5, seed=9), Sampling(1.0, seed=3)]
    assert (listed["sampling"]["temperature"], listed["sampling"]["top_k"]) == (0.7, 20)
    assert (listed["recommended_by"], listed["cut_repeats"]) == ("someone", False)


def test_more_tokens_than_fit_are_cut_to_the_room(client: httpx.Client, engine: FakeEngine) -> None:
    answer = client.post(TEXT, json={"prompt": "forever", "max_tokens": 10**9}).json()
    assert answer["usage"]["total_tokens"] == engine.facts.context


@pytest.mark.parametrize(("stop", "text"), [("said", "You "), (["x", "d:"], "You sai"), (None, "You said: hi")])
def test_stop_strings_end_the_answer(shared: httpx.Client, stop: Any, text: str) -> None:
    answer = shared.post(CHAT, json=say("hi", stop=stop)).json()
    assert answer["choices"][0]["message"]["content"] == text
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_fields_that_change_nothing_are_let_through(shared: httpx.Client) -> None:
    neutral = {"n": 1, "frequency_penalty": 0.0, "logit_bias": None, "tools": [], "logprobs": False, "user": "me"}
    assert shared.post(CHAT, json=say("hi", **neutral)).status_code == 200


def test_the_model_is_listed(shared: httpx.Client) -> None:
    listed = shared.get("/v1/models").json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["toy"]
    assert shared.get("/v1/models/toy").json() == listed["data"][0]
    assert shared.get("/v1/models/").json() == listed
    assert (listed["first_id"], listed["last_id"], listed["has_more"]) == ("toy", "toy", False)
    [model] = listed["data"]
    assert {model["max_model_len"], model["context_length"], model["meta"]["n_ctx"]} == {512}
    check_error(shared.get("/v1/models/a/b"), 404, "model", "model_not_found")


def test_a_model_may_have_other_names() -> None:
    engine = FakeEngine()
    service = dataclasses.replace(make_service(engine), aliases=("gpt-4o", "claude-*"))
    with serving(engine, service=service) as url, httpx.Client(base_url=url, timeout=DEADLINE) as client:
        for name in ("toy", "toy.gguf", "gpt-4o", "claude-haiku-5"):
            assert client.post(CHAT, json=say("hi", model=name)).json()["model"] == "toy"
        check_error(client.post(CHAT, json=say("hi", model="gpt-4")), 404, "model", "model_not_found")
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["toy", "gpt-4o"]
        assert client.get("/v1/models/claude-x").json()["root"] == "toy"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/chat/completions", say("hi")),
        ("/completions", {"prompt": "hi"}),
        ("/responses", {"input": "hi"}),
        ("/messages", say("hi")),
    ],
)
def test_paths_are_answered_without_v1_too(shared: httpx.Client, path: str, body: dict[str, Any]) -> None:
    for written in (path, f"/v1{path}", f"/v1/{path}", f"//v1{path}"):
        assert shared.post(str(shared.base_url).rstrip("/") + written, json=body).status_code == 200
    assert shared.get("/models").status_code == 200


def test_text_becomes_tokens_and_back(shared: httpx.Client) -> None:
    both = {"content": "hé<|end|>"}
    tokens = [*"hé".encode(), 257]
    assert shared.post("/tokenize", json=both).json() == {"tokens": tokens, "count": 4, "max_model_len": 512}
    plain = shared.post("/tokenize", json={"prompt": "<|end|>", "parse_special": False, "add_special": True}).json()
    assert bytes(plain["tokens"]) == b"<|end|>"
    found = shared.post("/detokenize", json={"tokens": tokens}).json()
    assert found == {"content": "hé<|end|>", "prompt": "hé<|end|>"}
    check_error(shared.post("/tokenize", json={}), 400, "content")
    check_error(shared.post("/detokenize", json={"tokens": [999]}), 400, "tokens")


def test_a_silent_stream_says_that_it_is_there() -> None:
    engine = FakeEngine()
    with serving(engine, ping_s=0.01) as url, httpx.Client(base_url=url, timeout=DEADLINE) as client:
        pings = ((CHAT, [": ping"]), ("/v1/messages", ["event: ping", "event: message_delta"]))
        for path, expected in pings:
            with client.stream("POST", path, json=say("wait", stream=True)) as response:
                lines = response.iter_lines()
                assert all(ping in lines for ping in expected)
            engine.await_withdrawn(len(engine.generations))
        with client.stream("POST", "/v1/responses", json={"input": "wait", "stream": True}) as response:
            begun = (line for line in response.iter_lines() if line == "event: response.in_progress")
            assert [next(begun), next(begun)], "the one after the first event is repeated"
        engine.await_withdrawn(len(engine.generations))
        assert client.post(CHAT, json=say("hi", stream=True)).text.endswith("data: [DONE]\n\n")


def test_a_server_that_has_computed_nothing_is_not_ready(
    client: httpx.Client, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpispec.serve.http.about.PROBE_SECONDS", 0.0)
    with client.stream("POST", CHAT, json=say("stall", stream=True)):
        assert client.get("/health").status_code == 503
        assert engine.num_tokens == 0


def test_health_follows_the_engine(client: httpx.Client, engine: FakeEngine) -> None:
    assert client.get("/health").status_code == 200
    assert len(engine.generations) == 1, "ready means that a token can be computed"
    assert client.get("/v1/health").status_code == 200
    assert len(engine.generations) == 1
    engine.stop()
    assert client.get("/health").status_code == 503
    check_error(client.post(CHAT, json=say("hi")), 503, code="engine_stopped")


BAD_FIELDS = [
    ("temperature", "1"),
    ("temperature", -0.1),
    ("temperature", 2.1),
    ("top_p", True),
    ("top_k", 1.5),
    ("top_k", 2**31),
    ("min_p", 2),
    ("repeat_penalty", 0),
    ("repeat_penalty", 1e-40),
    ("repeat_last_n", -2),
    ("seed", 2**64),
    ("seed", -2),
    ("n", 0),
    ("n", 65),
    ("max_tokens", 0),
    ("max_tokens", 150.5),
    ("max_tokens", -2),
    ("n_predict", 0),
    ("max_tokens", "many"),
    ("stop", [1]),
    ("stop", {"a": 1}),
    ("stop", ["x"] * 65),
    ("stop", ["x" * 257]),
    ("stream", "yes"),
    ("stream_options", 1),
    ("strategy", "magic"),
    ("drafter", "oracle:1"),
    ("n", True),
    ("logprobs", 1),
    ("top_logprobs", 21),
    ("tools", {}),
    ("tool_choice", "required"),
    ("tool_choice", {"type": "function", "function": {"name": "x"}}),
    ("tool_choice", {"type": "allowed_tools", "mode": "required", "tools": []}),
    ("tool_choice", {"type": "allowed_tools"}),
    ("tool_choice", 5),
    ("functions", [{"name": "x"}]),
    ("response_format", {"type": "xml"}),
    ("response_format", {"type": "structural_tag"}),
    ("response_format", "json_object"),
    ("response_format.json_schema", {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}),
    ("response_format.json_schema", {"type": "json_schema", "json_schema": {"schema": 5}}),
    ("guided_json", "{"),
    ("guided_json", {"not": {}}),
    ("guided_regex", "("),
    ("guided_choice", [""]),
    ("guided_choice", ["a"] * 5000),
    ("guided_grammar", "root ::= ("),
    ("guided_whitespace_pattern", " "),
    ("grammar", "start: missing"),
    ("json_schema", {"$ref": "https://example.com/x.json"}),
    ("structured_outputs", {"regex": "a", "json": {}}),
    ("structured_outputs.regex", {"regex": 5}),
    ("structured_outputs.structural_tag", {"structural_tag": "{}"}),
    ("chat_template", "x"),
    ("chat_template_kwargs", {"messages": []}),
    ("chat_template_kwargs", ["enable_thinking"]),
]


@pytest.mark.parametrize(("field", "value"), BAD_FIELDS)
def test_a_bad_field_is_named(shared: httpx.Client, field: str, value: Any) -> None:
    message = check_error(shared.post(CHAT, json=say("hi", **{field.partition(".")[0]: value})), 400, field)
    assert field in message


BAD_BODIES = [
    (CHAT, b"", None),
    (CHAT, b"{", None),
    (CHAT, b"[]", None),
    (CHAT, b"null", None),
    (CHAT, b"\xff\xfe", None),
    (CHAT, b"[" * 100_000, None),
    (CHAT, b'{"messages": [{"role": "user", "content": "\\ud800"}]}', None),
    (CHAT, b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}', "temperature"),
    (CHAT, b"{}", "messages"),
    (CHAT, b'{"messages": []}', "messages"),
    (CHAT, b'{"messages": "x"}', "messages"),
    (CHAT, b'{"messages": [%s]}' % b", ".join([b'{"role": "user", "content": ""}'] * 16385), "messages"),
    (CHAT, b'{"messages": [1]}', "messages[0]"),
    (CHAT, b'{"messages": [{"role": "user"}]}', "messages[0].content"),
    (CHAT, b'{"messages": [{"role": "user", "content": null}]}', "messages[0].content"),
    (CHAT, b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "messages[0].content"),
    (CHAT, b'{"messages": [{"role": "user", "content": [{"type": {}}]}]}', "messages[0].content"),
    (CHAT, b'{"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function"}]}', "tools[0].function"),
    (CHAT, b'{"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "custom"}]}', "tools[0].custom"),
    (CHAT, b'{"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "x"}]}', "tools[0].type"),
    (CHAT, b'{"messages": [{"role": "critic", "content": "x"}]}', "messages[0].role"),
    (CHAT, b'{"messages": [{"role": "user", "content": "x"}], "continue_final_message": true}', None),
    (CHAT, b'{"messages": [{"role": "assistant", "content": "x"}]}', "messages"),
    (TEXT, b"{}", "prompt"),
    (TEXT, b'{"prompt": ""}', "prompt"),
    (TEXT, b'{"prompt": []}', "prompt"),
    (TEXT, b'{"prompt": [""]}', "prompt"),
    (TEXT, b'{"prompt": ["a", ""]}', "prompt"),
    (TEXT, b'{"prompt": ["a", "b"], "n": 33}', None),
    (TEXT, b'{"prompt": "a", "best_of": 3}', "best_of"),
    (TEXT, b'{"prompt": [1, "b"]}', "prompt"),
    (TEXT, b'{"prompt": [true]}', "prompt"),
    (TEXT, b'{"prompt": [258]}', "prompt"),
    (TEXT, b'{"prompt": [-1]}', "prompt"),
    (TEXT, b'{"prompt": 5}', "prompt"),
    (TEXT, b'{"prompt": "hi", "top_k": 13}', None),
]


@pytest.mark.parametrize(("path", "body", "param"), BAD_BODIES, ids=range(len(BAD_BODIES)))
def test_a_bad_body_is_refused_and_the_server_goes_on(
    shared: httpx.Client, path: str, body: bytes, param: str | None
) -> None:
    check_error(shared.post(path, content=body), 400, param)
    assert shared.post(CHAT, json=say("hi")).status_code == 200


def test_of_many_bad_messages_the_first_is_looked_at() -> None:
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate_json(b'{"messages": [%s1]}' % (b"1, " * 1000))
    assert caught.value.error_count() == 1


def test_an_unknown_model_is_refused(shared: httpx.Client) -> None:
    assert "toy" in check_error(shared.post(CHAT, json=say("hi", model="gpt")), 404, "model", "model_not_found")


@pytest.mark.parametrize("length", [512, 600])
def test_a_prompt_longer_than_the_context_is_refused(shared: httpx.Client, length: int) -> None:
    response = shared.post(TEXT, json={"prompt": "x" * length})
    assert "511" in check_error(response, 400, "prompt", "context_length_exceeded")
    check_error(shared.post(CHAT, json=say("x" * length)), 400, "messages", "context_length_exceeded")


def test_other_paths_and_methods_are_refused(shared: httpx.Client) -> None:
    check_error(shared.get("/nowhere"), 404, code="not_found")
    check_error(shared.get("/health/"), 404, code="not_found")
    refused = shared.get(CHAT)
    check_error(refused, 405, code="method_not_allowed")
    assert refused.headers["allow"] == "POST"
    check_error(shared.options(CHAT), 405)
    assert "access-control-allow-origin" not in refused.headers


def test_a_body_that_is_too_large_is_refused(shared: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    check_error(shared.post(CHAT, content=b" " * (MAX_BODY + 1)), 413, code="body_too_large")
    monkeypatch.setattr("mpispec.serve.http.body.SLOW_BYTES_S", float("inf"))
    parts = (b" " * (1 << 20) for _ in range(9))
    check_error(shared.post(CHAT, content=parts), 413, code="body_too_large")
    packed = shared.post(CHAT, content=b"x", headers={"Content-Encoding": "zstd"})
    check_error(packed, 415, code="unsupported_encoding")
    assert shared.get("/health").status_code == 200


def open_request(client: httpx.Client, headers: bytes = b"") -> socket.socket:
    """Send the head of a chat request."""
    connection = socket.create_connection((client.base_url.host, client.base_url.port or 80), DEADLINE)
    connection.sendall(b"POST %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n" % (CHAT.encode(), headers))
    return connection


def test_a_body_that_does_not_come_times_out(shared: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpispec.serve.http.body.BODY_SECONDS", 0.01)
    with open_request(shared, b"Content-Length: 10\r\n") as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 408")


def test_a_request_that_does_not_come_times_out(shared: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpispec.serve.http.connection.HEAD_SECONDS", 0.01)
    with socket.create_connection((shared.base_url.host, shared.base_url.port or 80), DEADLINE) as connection:
        assert connection.recv(4096) == b""


def test_a_second_request_whose_head_does_not_end_times_out(
    shared: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_connection((shared.base_url.host, shared.base_url.port or 80), DEADLINE) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while b'"ok"' not in answer:
            answer += connection.recv(4096) or pytest.fail("closed too early")
        monkeypatch.setattr("mpispec.serve.http.connection.HEAD_SECONDS", 0.01)
        connection.sendall(b"GET /hea")
        assert connection.recv(4096) == b""


def test_a_client_that_leaves_in_mid_body_harms_nobody(shared: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with open_request(shared, b"Content-Length: 10\r\n") as connection:
        connection.sendall(b"{")
    assert shared.post(CHAT, json=say("hi")).status_code == 200
    assert caplog.records == []


def test_a_bug_is_a_500_and_the_server_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    class Bug(ChatTemplate):
        def render(self, *messages: object, **names: object) -> str:
            raise ZeroDivisionError("a bug")

    engine = FakeEngine()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mpispec.models.template.probe", lambda render: TemplateTraits())
        service = dataclasses.replace(make_service(engine), prompts=Prompts(ByteVocabulary(), Bug("hi")))
    with serving(engine, service=service) as url:
        check_error(httpx.post(url + CHAT, json=say("hi"), trust_env=False), 500, code="internal")
        assert httpx.post(url + TEXT, json={"prompt": "hi"}, trust_env=False).status_code == 200
    assert "ZeroDivisionError" in caplog.text


def test_a_chat_that_the_template_refuses_is_a_400(caplog: pytest.LogCaptureFixture) -> None:
    """With the service as `mpispec serve` makes it."""
    template = "{% if messages[1] is defined %}{{ raise_exception('Roles must alternate') }}{% endif %}hi"
    engine = FakeEngine()
    service = make_service(engine, template=template)
    twice = {"messages": say("one")["messages"] * 2}
    with serving(engine, service=service) as url:
        assert "Roles must alternate" in check_error(
            httpx.post(url + CHAT, json=twice, trust_env=False), 400, "messages"
        )
        assert httpx.post(url + CHAT, json=say("one"), trust_env=False).status_code == 200
    assert caplog.records == []


def test_simultaneous_requests_queue(shared: httpx.Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: shared.post(CHAT, json=say(f"number {n}")).json(), range(8)))
    assert [answer["choices"][0]["message"]["content"] for answer in answers] == [
        f"You said: number {n}" for n in range(8)
    ]


def test_a_full_queue_says_when_to_come_back(client: httpx.Client, engine: FakeEngine) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(MOST_OPEN):
            stack.enter_context(client.stream("POST", CHAT, json=say("wait", stream=True)))
        refused = client.post(CHAT, json=say("hi"))
        check_error(refused, 503, code="queue_full")
        assert int(refused.headers["retry-after"]) > 0
    for request in range(1, MOST_OPEN + 1):
        engine.await_withdrawn(request)
    assert client.post(CHAT, json=say("hi")).status_code == 200


def test_a_stream_whose_client_leaves_is_withdrawn(client: httpx.Client, engine: FakeEngine) -> None:
    with client.stream("POST", CHAT, json=say("wait", stream=True)) as response:
        assert next(response.iter_lines()).startswith("data: ")
    engine.await_withdrawn(1)
    assert client.post(CHAT, json=say("hi")).status_code == 200


def test_an_answer_whose_client_leaves_is_withdrawn(client: httpx.Client, engine: FakeEngine) -> None:
    body = json.dumps(say("wait")).encode()
    with open_request(client, b"Content-Length: %d\r\n" % len(body)) as connection:
        connection.sendall(body)
        engine.await_requests(1)
    engine.await_withdrawn(1)
    assert client.post(CHAT, json=say("hi")).status_code == 200


def test_an_engine_that_stops_in_mid_answer_ends_the_stream_with_an_error(
    client: httpx.Client, engine: FakeEngine
) -> None:
    with client.stream("POST", CHAT, json=say("wait", stream=True)) as response:
        lines = response.iter_lines()
        next(lines)
        engine.stop()
        *_, last = [line for line in lines if line]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_stopped"


def test_an_engine_that_stops_before_an_answer_is_a_503(client: httpx.Client, engine: FakeEngine) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.post, CHAT, json=say("wait"))
        engine.await_requests(1)
        engine.stop()
        check_error(waiting.result(DEADLINE), 503, code="engine_stopped")
