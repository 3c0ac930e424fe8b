"""Which request comes first, and when one ends for lack of time, over real HTTP."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from serve_fake import FakeEngine

from mpispec.serve.api.answers import encode

pytestmark = pytest.mark.unit

CHAT, TEXT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"


def body(path: str, text: str, **fields: Any) -> dict[str, Any]:
    """Return what asks an endpoint to go on with a text."""
    if path == TEXT:
        return {"prompt": text, **fields}
    messages = [{"role": "user", "content": text}]
    if path == RESPONSES:
        return {"input": messages, **fields}
    return {"messages": messages, "max_tokens": 100, **fields}


@pytest.mark.parametrize("path", [CHAT, TEXT, RESPONSES, MESSAGES])
def test_priority_and_timeout_reach_the_engine(client: httpx.Client, engine: FakeEngine, path: str) -> None:
    assert client.post(path, json=body(path, "hi")).status_code == 200
    assert client.post(path, json=body(path, "hi", priority=-3, timeout=2.5)).status_code == 200
    found = [(generation.priority, generation.timeout_s) for generation in engine.generations]
    assert found == [(0, None), (-3, 2.5)]


@pytest.mark.parametrize(
    "fields", [{"priority": 1001}, {"priority": 1.5}, {"timeout": 0}, {"timeout": "1"}, {"timeout": 1e9}]
)
def test_what_is_no_priority_or_timeout_is_refused(client: httpx.Client, fields: dict[str, Any]) -> None:
    answer = client.post(CHAT, json=body(CHAT, "hi", **fields))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == next(iter(fields))


def test_an_answer_that_takes_too_long_ends_with_what_it_has(client: httpx.Client) -> None:
    chat = client.post(CHAT, json=body(CHAT, "wait", timeout=1)).json()
    assert chat["choices"][0]["finish_reason"] == "length"
    assert chat["choices"][0]["message"]["content"] == "You said: wait"
    assert chat["mpispec"]["cut"] == "timeout"
    response = client.post(RESPONSES, json=body(RESPONSES, "wait", timeout=1)).json()
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    message = client.post(MESSAGES, json=body(MESSAGES, "wait", timeout=1)).json()
    assert message["stop_reason"] == "max_tokens"
    streamed = client.post(CHAT, json=body(CHAT, "wait", timeout=1, stream=True)).text
    assert encode({"cut": "timeout"})[1:-1] in streamed
    assert '"finish_reason":"length"' in streamed


def test_an_answer_of_which_nothing_came_in_time_is_an_error(client: httpx.Client) -> None:
    answer = client.post(CHAT, json=body(CHAT, "stall", timeout=1))
    assert answer.status_code == 504
    error = answer.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("server_error", "timeout", "timeout")
    message = client.post(MESSAGES, json=body(MESSAGES, "stall", timeout=1))
    assert message.status_code == 504
    assert message.json()["error"]["type"] == "timeout_error"
    streamed = client.post(CHAT, json=body(CHAT, "stall", timeout=1, stream=True)).text
    assert '"code":"timeout"' in streamed
    assert 'finish_reason":"length' not in streamed
