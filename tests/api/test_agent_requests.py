"""What coding agents really send, written down and shortened: each is answered, whatever the model's template takes.

Recorded on 2026-11-30 of Codex 0.171.0, Claude Code 2.1.197, opencode 1.18.33, Qwen Code 0.15.10 and aider 0.86, which
worked with a server whose answers were scripted: they called tools, read results and pictures, and came to their end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serve_fake import TURNS, FakeEngine, connected, make_service

pytestmark = pytest.mark.api

RECORDED = {file.stem: json.loads(file.read_text("utf-8")) for file in (Path(__file__).parent / "agents").iterdir()}
ALTERNATING = (
    "{% for m in messages %}{% if not loop.first and m.role == messages[loop.index0 - 1].role or m.role == 'system' "
    "and not loop.first %}{{ raise_exception('take turns') }}{% endif %}{{ '<|start|>' + m.role + '\n' + m.content "
    "+ '<|end|>' }}{% endfor %}{{ '<|start|>assistant\n' }}"
)
"""Takes one message of the system, and roles in turns, as templates of Gemma, Mistral and Llama 2 do."""
ENDS = {"responses": "response.completed", "messages": "message_stop", "completions": "[DONE]"}
MCP_CALL = '<tool_call>\n{"name": "mcp__weather__get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


@pytest.fixture(scope="module", params=[TURNS, ALTERNATING], ids=["any-order", "in-turns"])
def server(request: pytest.FixtureRequest) -> Iterator[tuple[FakeEngine, httpx.Client]]:
    """Return a server whose model only repeats what was said."""
    engine = FakeEngine(1 << 16)
    with connected(engine, make_service(engine, template=request.param)) as client:
        yield engine, client


def send(client: httpx.Client, name: str, **fields: Any) -> httpx.Response:
    said = RECORDED[name]
    body = {**said["body"], "model": "toy", **fields}
    return client.post(said["path"], json=body, headers=said["headers"])


def prompt_of(server: tuple[FakeEngine, httpx.Client], name: str) -> str:
    engine, client = server
    answer = send(client, name)
    assert answer.status_code == 200, answer.text
    return bytes(token for token in engine.generations[-1].prompt if token < 256).decode()


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_what_an_agent_sends_is_answered(server: tuple[FakeEngine, httpx.Client], name: str) -> None:
    answer = send(server[1], name)
    assert answer.status_code == 200, answer.text
    if RECORDED[name]["body"].get("stream"):
        kind = RECORDED[name]["path"].partition("?")[0].rpartition("/")[2]
        assert ENDS[kind] in answer.text.strip().splitlines()[-1]
        assert '"error":{' not in answer.text
        whole = send(server[1], name, stream=False, stream_options=None)
        assert whole.status_code == 200, whole.text


def test_a_picture_that_a_tool_found_is_named(server: tuple[FakeEngine, httpx.Client]) -> None:
    for name in ("codex_mcp", "claude_code_image"):
        assert "[image: this model reads text alone]" in prompt_of(server, name)


def test_what_is_for_accounts_alone_is_not_read(server: tuple[FakeEngine, httpx.Client]) -> None:
    assert RECORDED["claude_code_tools"]["body"]["system"][0]["text"].startswith("x-anthropic-billing-header")
    assert "billing" not in prompt_of(server, "claude_code_tools")


def test_tools_of_an_mcp_server_are_called_by_name_and_namespace(server: tuple[FakeEngine, httpx.Client]) -> None:
    assert '"mcp__weather__get_weather"' in prompt_of(server, "codex_mcp")
    given = RECORDED["codex_mcp"]["body"]["input"]
    asked = [*given, {"role": "assistant", "content": "Go on."}, {"role": "user", "content": f"write:{MCP_CALL}"}]
    (item,) = send(server[1], "codex_mcp", input=asked, stream=False).json()["output"]
    assert (item["type"], item["namespace"], item["name"]) == ("function_call", "mcp__weather", "get_weather")
    assert json.loads(item["arguments"]) == {"city": "Oslo"}
