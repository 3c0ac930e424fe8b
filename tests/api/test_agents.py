"""Agents of three makers go through their loop: ask, call a tool, read its result, answer."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import agents
import openai
import pydantic_ai
import pytest
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.api.conftest import ALIAS, ASK_FOR_CALL, DESCRIPTION, KEY, WEATHER

pytestmark = pytest.mark.api


@pytest.mark.parametrize("kind", [OpenAIChatModel, OpenAIResponsesModel])
@pytest.mark.parametrize("is_streamed", [False, True])
def test_pydantic_ai(url: str, kind: type[OpenAIChatModel | OpenAIResponsesModel], is_streamed: bool) -> None:
    agent = pydantic_ai.Agent(kind(ALIAS, provider=OpenAIProvider(base_url=f"{url}/v1", api_key=KEY)))
    cities = []

    @agent.tool_plain(description=DESCRIPTION)
    def get_weather(city: str) -> str:
        cities.append(city)
        return WEATHER

    async def stream() -> str:
        async with agent.run_stream(ASK_FOR_CALL) as result:
            return str(await result.get_output())

    answer = asyncio.run(stream()) if is_streamed else str(agent.run_sync(ASK_FOR_CALL).output)
    assert cities == ["Paris"]
    assert "21 C" in answer


@pytest.mark.parametrize("kind", [agents.OpenAIChatCompletionsModel, agents.OpenAIResponsesModel])
@pytest.mark.parametrize("is_streamed", [False, True])
def test_openai_agents(
    url: str, kind: type[agents.OpenAIChatCompletionsModel | agents.OpenAIResponsesModel], is_streamed: bool
) -> None:
    agents.set_tracing_disabled(True)
    cities = []

    @agents.function_tool
    def get_weather(city: str) -> str:
        """Get the weather of a city."""
        cities.append(city)
        return WEATHER

    async def run() -> str:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
        model = kind(model=ALIAS, openai_client=client)
        agent = agents.Agent(name="reporter", model=model, tools=[get_weather])
        if not is_streamed:
            return str((await agents.Runner.run(agent, ASK_FOR_CALL)).final_output)
        streamed = agents.Runner.run_streamed(agent, ASK_FOR_CALL)
        async for _ in streamed.stream_events():
            pass
        return str(streamed.final_output)

    answer = asyncio.run(run())
    assert cities == ["Paris"]
    assert "21 C" in answer


def test_the_command_line_of_llm(url: str, tmp_path: Path) -> None:
    named = {
        "model_id": "small",
        "model_name": ALIAS,
        "api_base": f"{url}/v1",
        "api_key_name": "mpispec",
        "supports_tools": True,
    }
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps([named]))
    tool = f"def get_weather(city: str) -> str:\n    'Get the weather of a city.'\n    return {WEATHER!r}\n"
    command = [sys.executable, "-m", "llm", "prompt", ASK_FOR_CALL, "-m", "small", "--key", KEY, "--functions", tool]
    for options in ([], ["--no-stream"]):
        ran = subprocess.run(
            [*command, *options],
            env={**os.environ, "LLM_USER_PATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert ran.returncode == 0, ran.stderr
        assert "21 C" in ran.stdout
