"""Completions join engine, vocabulary and text, and withdraw what nobody reads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

import pytest
from serve_fake import END, ByteVocabulary, FakeEngine

from mpispec.runtime.engine import EngineStopped, Generation, Listener, Progress
from mpispec.serve.text.completion import AsyncCompletion, Completion
from mpispec.serve.text.hearing import Take, hear
from mpispec.serve.text.turn import Piece, Said

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
    texts: list[str] = []

    def take(index: int, pieces: list[Piece]) -> bool:
        assert index == 0
        texts.extend(piece.text for piece in pieces if isinstance(piece, Said))
        return True

    async def read() -> None:
        completion = AsyncCompletion(engine, ByteVocabulary(), Generation(tuple(b"hi"), 200))
        await hear([completion], take)
        assert completion.result().finish_reason == "stop"

    asyncio.run(read())
    assert texts == ["Y", "ou ", "sa", "i", "d: ", "hi"]


class Hasty:
    """An engine that says all at once, before anybody listens."""

    def submit(self, generation: Generation, listener: Listener) -> int:
        for token in generation.prompt:
            listener(Progress((token,), None, 0.0))
        listener(Progress((), "length", 0.0))
        return 0

    def report(self, request: int) -> dict[str, Any]:
        return {}


def hasty() -> AsyncCompletion:
    return AsyncCompletion(cast(Any, Hasty()), ByteVocabulary(), Generation(tuple(b"abcdefgh" * 5), 40))


def test_what_has_come_is_taken_at_once_and_no_pile_takes_the_loop() -> None:
    turns: list[str] = []

    async def read(name: str) -> list[list[Piece]]:
        found: list[list[Piece]] = []

        def take(index: int, pieces: list[Piece]) -> bool:
            turns.append(name)
            found.append(pieces)
            return True

        await hear([hasty()], take)
        return found

    async def both() -> list[list[list[Piece]]]:
        return await asyncio.gather(read("a"), read("b"))

    for found in asyncio.run(both()):
        assert [len(pieces) for pieces in found] == [16, 16, 8]
        assert [piece for pieces in found for piece in pieces] == [Said(letter) for letter in "abcdefgh" * 5]
    assert turns == ["a", "b"] * 3


def test_who_can_take_no_more_is_waited_for() -> None:
    happened: list[str] = []

    def take(index: int, pieces: list[Piece]) -> bool:
        happened.append(f"{index}: {len(pieces)}")
        return len(happened) > 2

    async def drain() -> None:
        await asyncio.sleep(0)
        happened.append("drained")

    asyncio.run(hear_hasty(take, drain))
    assert happened == ["0: 16", "drained", "0: 16", "1: 16", "0: 8", "1: 16", "1: 8"]


def test_what_goes_wrong_is_told_and_ends_the_rest(engine: FakeEngine) -> None:
    def take(index: int, pieces: list[Piece]) -> bool:
        raise KeyError("broken")

    async def read() -> None:
        await hear([AsyncCompletion(engine, ByteVocabulary(), Generation(tuple(b"wait"), 200))], take)

    with pytest.raises(KeyError, match="broken"):
        asyncio.run(read())
    engine.await_withdrawn(1)


async def hear_hasty(take: Take, drain: Callable[[], Awaitable[None]]) -> None:
    await hear([hasty(), hasty()], take, drain)


def test_a_cancelled_task_withdraws(engine: FakeEngine) -> None:
    async def read() -> None:
        completion = AsyncCompletion(engine, ByteVocabulary(), Generation(tuple(b"wait"), 200))
        reading = asyncio.ensure_future(hear([completion], take))
        await over.wait()
        reading.cancel()
        await reading

    def take(index: int, pieces: list[Piece]) -> bool:
        nonlocal shown
        shown += "".join(piece.text for piece in pieces if isinstance(piece, Said))
        if shown == "You said: wait":
            over.set()
        return True

    shown, over = "", asyncio.Event()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(read())
    engine.await_withdrawn(1)


def test_progress_after_the_loop_has_closed_harms_nobody(engine: FakeEngine) -> None:
    async def leave() -> None:
        AsyncCompletion(engine, ByteVocabulary(), Generation(tuple(b"wait"), 200))

    asyncio.run(leave())
    engine.withdraw(1)
    assert "".join(start(engine, b"hi")) == "You said: hi"
