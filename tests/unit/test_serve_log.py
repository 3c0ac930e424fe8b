"""The log of the server: one line a request, for people or programs, without texts and keys."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from serve_fake import DEADLINE, FakeEngine, connected, serving

from mpispec.commands.door import log_form
from mpispec.serve.http import log

pytestmark = pytest.mark.unit

CHAT = "/v1/chat/completions"


class Lines(io.StringIO):
    """Standard error, as far as the log goes."""

    def read_json(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


@pytest.fixture
def lines() -> Iterator[Lines]:
    found = Lines()
    yield found
    log.set_up("off")


def say(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **fields}


def test_a_request_is_one_line_for_programs(lines: Lines) -> None:
    with serving(FakeEngine(), key="classified") as url:
        log.set_up("json", lines)
        with httpx.Client(base_url=url, timeout=DEADLINE, headers={"x-api-key": "classified"}) as client:
            answer = client.post(CHAT, json=say("private words"))
            client.post(CHAT, json=say("private words", stream=True))
            client.get("/nowhere?private=1")
            client.get("/v1/models", headers={"x-api-key": "wrong"})
    found = lines.read_json()
    whole, streamed = (line for line in found if line["path"] == CHAT)
    (nowhere,) = (line for line in found if line["path"] == "/nowhere")
    (refused,) = (line for line in found if line["path"] == "/v1/models")
    assert whole["id"] == answer.headers["x-request-id"]
    assert (whole["method"], whole["path"], whole["status"], whole["client"]) == ("POST", CHAT, 200, "127.0.0.1")
    assert (whole["level"], whole["event"], whole["finish_reason"]) == ("info", "request", "stop")
    assert whole["answer_tokens"] == answer.json()["usage"]["completion_tokens"]
    assert whole["prompt_tokens"] == answer.json()["usage"]["prompt_tokens"]
    assert 0 < whole["ttft_s"] <= whole["duration_s"]
    assert streamed["answer_tokens"] == whole["answer_tokens"]
    assert (nowhere["path"], nowhere["status"]) == ("/nowhere", 404)
    assert "answer_tokens" not in nowhere
    assert refused["status"] == 401
    assert "private" not in lines.getvalue()
    assert "classified" not in lines.getvalue()


def test_a_request_is_one_line_for_people(lines: Lines) -> None:
    with connected(FakeEngine()) as client:
        log.set_up("text", lines)
        client.post(CHAT, json=say("hi"))
        client.get("/no%0Awhere%1B[2J")
    first, second = lines.getvalue().splitlines()
    assert " info request id=req-" in first
    assert " status=200 " in first
    assert "path=/no%0Awhere%1B[2J status=404" in second


def test_beside_a_chat_there_is_no_log_unless_it_is_asked_for() -> None:
    assert [log_form(None, has_repl) for has_repl in (True, False)] == ["off", "text"]
    assert log_form("json", has_repl=True) == "json"


def test_the_clients_own_id_is_taken_if_it_is_a_word() -> None:
    with connected(FakeEngine()) as client:
        for given, is_taken in [
            ("a-1.b:c_d", True),
            ("x" * 128, True),
            ("x" * 129, False),
            ("a b", False),
            ("", False),
        ]:
            returned = client.get("/v1/models", headers={"X-Request-Id": given}).headers["x-request-id"]
            assert (returned == given) is is_taken
            assert returned


def test_failures_of_the_server_are_logged_with_the_id(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> dict[str, object]:
        raise ZeroDivisionError("of ours")

    engine = FakeEngine()
    with connected(engine) as client:
        log.set_up("json", lines)
        monkeypatch.setattr(engine, "stats", fail)
        answer = client.get("/stats")
        assert client.get("/v1/models").status_code == 200
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal"
    failure, line, _ = lines.read_json()
    assert failure["level"] == "error"
    assert failure["id"] == line["id"] == answer.headers["x-request-id"]
    assert "ZeroDivisionError: of ours" in failure["traceback"]
    assert line["status"] == 500


def test_without_a_log_only_failures_are_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FakeEngine()
    with connected(engine) as client:
        client.post(CHAT, json=say("hi"))
        assert caplog.records == []
        monkeypatch.setattr(engine, "ranks", lambda: 1 / 0)
        client.get("/stats")
    [record] = caplog.records
    assert (record.levelno, record.name) == (logging.ERROR, "mpispec.serve")
