"""Completions join engine, vocabulary and text, and withdraw what nobody reads."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, cast

import pytest
from serve_fake import END, ByteVocabulary, FakeEngine

from mpispec.runtime.engine import EngineStopped, Generation, Listener, Progress
from mpispec.serve.text.completion import AsyncCompletion, Completion

pytestmark = pytest.mark.unit


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    engine = FakeEngine()
    yield engine
    engine.join()


def start(engine: FakeEngine, prompt: bytes, stops: tuple[str, ...] = (), max_tokens: int = 200) -> Completion:
    return Completion(engine, ByteVocabulary(), Generation(tuple(prompt), max_tokens), stops)


def test_a_whole_answer_has_its_tokens_and_report(engine: FakeEngine) -> None:
    completion = start(engine, "naïve".encode())
    assert "".join(completion) == "You said: naïve"
    done = completion.result()
    assert done.text == "You said: naïve"
    assert done.tokens == (*"You said: naïve".encode(), END)
    assert (done.finish_reason, done.prompt_tokens) == ("stop", 6)
    assert done.report["timing"] == {"tokens_per_s": 12.5}
    assert not completion.withdrawn


def test_each_progress_gives_one_delta(engine: FakeEngine) -> None:
    assert list(start(engine, b"hi")) == ["Y", "ou ", "sa", "i", "d: ", "hi"]


def test_the_length_limit_ends_the_answer(engine: FakeEngine) -> None:
    completion = start(engine, b"forever", max_tokens=10)
    assert "".join(completion) == "foreverfor"
    assert completion.result().finish_reason == "length"


def test_a_stop_string_withdraws_and_counts_no_token_beyond_it(engine: FakeEngine) -> None:
    completion = start(engine, b"forever", stops=("verf",))
    assert "".join(completion) == "fore"
    done = completion.result()
    assert (done.finish_reason, done.text, bytes(done.tokens)) == ("stop", "fore", b"foreverf")
    assert engine.is_withdrawn(1)


def test_nothing_ends_an_answer_before_its_least_tokens(engine: FakeEngine) -> None:
    least = Generation(tuple(b"forever"), 600, min_tokens=400)
    stopped = Completion(engine, ByteVocabulary(), least, ("xyz", "ever"))
    assert "".join(stopped) == "forever" * 57 + "for"
    assert (stopped.result().finish_reason, len(stopped.tokens)) == ("stop", 406)
    cut = Completion(engine, ByteVocabulary(), least, cuts_repeats=True)
    assert len("".join(cut)) == 400
    assert cut.result().is_cut


def test_a_stop_string_in_the_last_progress_counts(engine: FakeEngine) -> None:
    completion = start(engine, b"forever", stops=("r",), max_tokens=3)
    assert "".join(completion) == "fo"
    assert completion.result().finish_reason == "stop"


def test_leaving_early_withdraws(engine: FakeEngine) -> None:
    completion = start(engine, b"wait")
    for _ in completion:
        break
    engine.await_withdrawn(1)
    assert completion.text == "Y"


def test_an_interrupt_ends_the_answer_where_it_is(engine: FakeEngine) -> None:
    completion = start(engine, b"wait")
    shown = ""
    for added in completion:
        shown += added
        if shown == "You said: wait":
            completion.interrupt()
    assert completion.result().finish_reason == "cancelled"
    assert completion.result().text == shown == "You said: wait"


def test_an_interrupt_after_the_end_does_nothing(engine: FakeEngine) -> None:
    completion = start(engine, b"hi")
    list(completion)
    completion.interrupt()
    completion.withdraw()
    assert list(completion) == []
    assert not engine.is_withdrawn(1)


def test_there_is_no_result_before_the_end(engine: FakeEngine) -> None:
    with pytest.raises(RuntimeError, match="not ended"):
        start(engine, b"hi").result()


def test_a_stopped_engine_cancels_and_then_refuses(engine: FakeEngine) -> None:
    completion = start(engine, b"wait")
    iterator = iter(completion)
    assert next(iterator) == "Y"
    engine.stop()
    list(iterator)
    assert completion.result().finish_reason == "cancelled"
    assert not completion.withdrawn
    with pytest.raises(EngineStopped):
        start(engine, b"hi")


def test_an_event_loop_receives_the_same(engine: FakeEngine) -> None:
    async def read() -> list[str]:
        completion = AsyncCompletion(engine, ByteVocabulary(), Generation(tuple(b"hi"), 200))
        deltas = [pieces async for pieces in completion]
        assert completion.result().finish_reason == "stop"
        return [piece.text for pieces in deltas for piece in pieces]

    assert asyncio.run(read()) == ["Y", "ou ", "sa", "i", "d: ", "hi"]


class Hasty:
    """An engine that says all at once, before anybody listens."""

    def submit(self, generation: Generation, listener: Listener) -> int:
        for token in generation.prompt:
            listener(Progress((token,), None, 0.0))
        listener(Progress((), "length", 0.0))
        return 0

    def report(self, request: int) -> dict[str, Any]:
        return {}


def test_what_has_come_is_yielded_at_once_and_no_pile_takes_the_loop() -> None:
    turns: list[str] = []

    async def read(name: str) -> list[list[str]]:
        completion = AsyncCompletion(cast(Any, Hasty()), ByteVocabulary(), Generation(tuple(b"abcdefgh" * 5), 40))
        found = []
        async for pieces in completion:
            turns.append(name)
            found.append([piece.text for piece in pieces])
        return found

    async def both() -> list[list[list[str]]]:
        return await asyncio.gather(read("a"), read("b"))

    for found in asyncio.run(both()):
        assert [len(texts) for texts in found] == [16, 16, 8]
        assert [text for texts in found for text in texts] == list("abcdefgh" * 5)
    assert turns == ["a", "b"] * 3


def test_a_cancelled_task_withdraws(engine: FakeEngine) -> None:
    async def read() -> None:
        completion = AsyncCompletion(engine, ByteVocabulary(), Generation(tuple(b"wait"), 200))
        shown = ""
        async for pieces in completion:
            shown += "".join(piece.text for piece in pieces)
            if shown == "You said: wait":
                asyncio.current_task().cancel()  # type: ignore[union-attr]

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(read())
    engine.await_withdrawn(1)


def test_progress_after_the_loop_has_closed_harms_nobody(engine: FakeEngine) -> None:
    async def leave() -> None:
        AsyncCompletion(engine, ByteVocabulary(), Generation(tuple(b"wait"), 200))

    asyncio.run(leave())
    engine.withdraw(1)
    assert "".join(start(engine, b"hi")) == "You said: hi"
