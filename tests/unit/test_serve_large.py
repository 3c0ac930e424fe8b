"""Large bodies and long prompts take no more of the cores than they must."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from serve_fake import ByteVocabulary, FakeEngine, connected, make_service

from mpispec.serve.http import body
from mpispec.serve.text.prompt import read

pytestmark = pytest.mark.unit

CONTEXT = 512


class Counting(ByteVocabulary):
    """Counts the bytes that it is asked to read."""

    def __init__(self) -> None:
        self.num_read = 0

    def tokenize(self, text: str, special: bool, begin: bool = True) -> list[int]:
        self.num_read += len(text)
        return super().tokenize(text, special, begin)


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/v1/completions", {"prompt": "a" * 1_000_000}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a" * 1_000_000}]}),
    ],
)
def test_a_prompt_that_is_far_too_long_is_not_read_to_its_end(path: str, wanted: dict[str, Any]) -> None:
    vocabulary = Counting()
    service = make_service(FakeEngine(CONTEXT), vocabulary=vocabulary)
    with connected(cast(FakeEngine, service.engine), service) as client:
        vocabulary.num_read = 0
        message = client.post(path, json=wanted).json()["error"]["message"]
        assert vocabulary.num_read < 10_000
        assert f"tokens > {CONTEXT - 1} maximum" in message
        assert abs(int(message.partition(": ")[2].split()[0]) - 1_000_000) < 10_000


def test_tokens_are_counted_to_the_end() -> None:
    with connected(FakeEngine(CONTEXT)) as client:
        wanted = {"model": "toy", "max_tokens": 1, "messages": [{"role": "user", "content": "a" * 100_000}]}
        assert client.post("/v1/messages/count_tokens", json=wanted).json()["input_tokens"] > 100_000


@pytest.mark.parametrize("size", [0, 8 * CONTEXT, 8 * CONTEXT + 1, 100_000])
def test_what_may_fit_is_read_as_a_whole(size: int) -> None:
    """A tokenizer whose tokens have twenty characters."""

    def tokenize(text: str) -> list[int]:
        return [0] * -(-len(text) // 20)

    tokens, num_unread = read(tokenize, "a" * size, CONTEXT)
    if size // 20 < CONTEXT:
        assert (len(tokens), num_unread) == (-(-size // 20), 0)
    assert len(tokens) + num_unread == -(-size // 20)
    assert read(tokenize, "a" * size, None) == (tokenize("a" * size), 0)


class Upload:
    """A request whose body comes in parts."""

    def __init__(self, parts: list[bytes]) -> None:
        self.headers: dict[str, str] = {}
        self._parts = parts

    async def stream(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            yield part


def test_only_what_is_large_is_taken_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    def read_all(parts: list[bytes]) -> bytes:
        return asyncio.run(body.read_body(cast(Any, Upload(parts))))

    monkeypatch.setattr(body.asyncio, "sleep", sleep)
    half = b"a" * (body.QUICK_BYTES // 2)
    assert read_all([half, half]) == half + half
    assert waits == []
    assert read_all([half] * 4) == half * 4
    assert waits == [len(half) / body.SLOW_BYTES_S] * 2
