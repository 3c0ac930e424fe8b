"""OpenAI's own client understands the server."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from serve_fake import FakeEngine, serving

pytestmark = pytest.mark.unit

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    with serving(FakeEngine(), key="secret") as url:
        yield openai.OpenAI(base_url=f"{url}/v1", api_key="secret", max_retries=0)


def test_a_chat_is_answered(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="toy", messages=MESSAGES, temperature=0.5, seed=3)
    assert answer.choices[0].message.content == "You said: hi"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == 13
    assert answer.seed == 3


def test_a_chat_is_streamed(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="toy", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    texts = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(texts) == "You said: hi"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.total_tokens > 13


def test_the_stream_helper_works(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="toy", messages=MESSAGES) as stream:
        done = stream.get_final_completion()
    assert done.choices[0].message.content == "You said: hi"


def test_a_text_is_completed(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="toy", prompt="forever", max_tokens=7)
    assert answer.choices[0].text == "forever"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.prompt_tokens == 7


def test_a_completion_is_streamed(client: openai.OpenAI) -> None:
    chunks = client.completions.create(model="toy", prompt=list(b"hi"), max_tokens=20, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "You said: hi"


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["toy"]
    assert client.models.retrieve("toy").owned_by == "mpispec"


def test_errors_have_the_types_the_client_knows(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no model"):
        client.chat.completions.create(model="gpt", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="toy", messages=MESSAGES, functions=[{"name": "f"}])
    assert (caught.value.param, caught.value.code) == ("functions", "unsupported_parameter")
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()


def test_a_failure_in_mid_stream_is_an_error() -> None:
    engine = FakeEngine()
    with serving(engine) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        waiting = [{"role": "user", "content": "wait"}]
        stream = client.chat.completions.create(model="toy", messages=waiting, stream=True)
        next(stream)
        engine.stop()
        with pytest.raises(openai.APIError, match="stopped"):
            list(stream)
