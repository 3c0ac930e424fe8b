"""Responses and their events have the types that the Open Responses specification writes down."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openresponses_types as types
import pytest
from pydantic import BaseModel

from tests.api.conftest import ALIAS, ASK_FOR_CALL, KEY, PARAMETERS

pytestmark = pytest.mark.api

EVENTS: dict[str, type[BaseModel]] = {
    "response.created": types.ResponseCreatedStreamingEvent,
    "response.in_progress": types.ResponseInProgressStreamingEvent,
    "response.output_item.added": types.ResponseOutputItemAddedStreamingEvent,
    "response.content_part.added": types.ResponseContentPartAddedStreamingEvent,
    "response.output_text.delta": types.ResponseOutputTextDeltaStreamingEvent,
    "response.output_text.done": types.ResponseOutputTextDoneStreamingEvent,
    "response.content_part.done": types.ResponseContentPartDoneStreamingEvent,
    "response.function_call_arguments.delta": types.ResponseFunctionCallArgumentsDeltaStreamingEvent,
    "response.function_call_arguments.done": types.ResponseFunctionCallArgumentsDoneStreamingEvent,
    "response.output_item.done": types.ResponseOutputItemDoneStreamingEvent,
    "response.completed": types.ResponseCompletedStreamingEvent,
    "response.incomplete": types.ResponseIncompleteStreamingEvent,
}
TOOLS = [{"type": "function", "name": "get_weather", "parameters": PARAMETERS}]


def ask(url: str, **fields: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {KEY}"}
    answer = httpx.post(f"{url}/v1/responses", json={"model": ALIAS, **fields}, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer


ASKED = [
    {"input": "Say hello.", "max_output_tokens": 32, "instructions": "Be brief."},
    {"input": "Count to a hundred.", "max_output_tokens": 4},
    {"input": ASK_FOR_CALL, "tools": TOOLS, "max_output_tokens": 64},
]


@pytest.mark.parametrize("fields", ASKED)
def test_a_response_has_its_type(url: str, fields: dict[str, Any]) -> None:
    types.ResponseResource.model_validate(ask(url, **fields).json())


@pytest.mark.parametrize("fields", ASKED)
def test_events_have_their_types(url: str, fields: dict[str, Any]) -> None:
    seen = set()
    for text in ask(url, **fields, stream=True).text.strip().split("\n\n"):
        event = json.loads(text.partition("\n")[2].removeprefix("data: "))
        EVENTS[event["type"]].model_validate(event)
        seen.add(event["type"])
    assert seen & {"response.completed", "response.incomplete"}
