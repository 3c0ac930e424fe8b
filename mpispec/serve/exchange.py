"""From the prompts of a request to its response: whole or streamed, one answer or several at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mpispec.runtime.engine import EngineStopped, Generation
from mpispec.serve.answers import TextAnswer
from mpispec.serve.chat import ChatRequest
from mpispec.serve.completion import AsyncCompletion, Completed
from mpispec.serve.errors import ApiError, engine_stopped
from mpispec.serve.events import EventStream, unless_gone
from mpispec.serve.request import GenerationRequest
from mpispec.serve.service import Service
from mpispec.wire.fields import MAX_SEED

MAX_QUEUE = 64
"""Answers that may wait behind the one that runs."""
_RETRY_SECONDS = 5
_AHEAD = 16
"""Texts of all choices that may wait for a client that reads slowly; the rest waits in their own inboxes."""


class Exchange:
    """Has requests answered, so many at once; lives on one event loop."""

    def __init__(self, service: Service, max_queue: int = MAX_QUEUE) -> None:
        self._service = service
        self._max_admitted = max_queue + 1
        self._admitted = 0

    async def answer(
        self,
        http: Request,
        wanted: GenerationRequest,
        prompts: Sequence[Sequence[int]],
        shape: Callable[[int], TextAnswer],
    ) -> Response:
        """Return the response to a request; `shape` makes the form of its answers for the seed of the first.

        Raises ApiError.
        """
        seed = self._service.manner.pick_seed() if wanted.seed is None else wanted.seed
        answer = shape(seed)
        generations = [
            self._generation(wanted, prompt, (seed + choice) & MAX_SEED)
            for prompt in prompts
            for choice in range(wanted.num_choices)
        ]
        completions = self._submit(generations, wanted)
        if wanted.stream:
            return EventStream(_stream(completions, answer), on_end=lambda: self._release(completions))
        try:
            answers = await unless_gone(http.receive, _finish(completions))
        finally:
            self._release(completions)
        return Response(status_code=400) if answers is None else JSONResponse(answer.whole(answers))

    def _generation(self, wanted: GenerationRequest, prompt: Sequence[int], seed: int) -> Generation:
        room = self._service.room(prompt)
        if room < 1:
            raise ApiError(
                400,
                f"The prompt has {len(prompt)} tokens and the context {self._service.engine.context}; shorten it.",
                param=wanted.prompt_field,
                code="context_length_exceeded",
            )
        return Generation(
            prompt=tuple(prompt),
            max_tokens=room if wanted.limit is None else min(wanted.limit, room),
            sampling=wanted.sampling(self._service.manner.defaults(wanted.temperature), seed),
            strategy=wanted.strategy,
            drafter=wanted.drafter,
        )

    def _cuts_repeats(self, wanted: GenerationRequest) -> bool:
        """Return whether an answer may be cut: by the request, else in a chat as the server says."""
        if wanted.cut_repeats is None:
            return self._service.manner.cuts_repeats and isinstance(wanted, ChatRequest)
        return wanted.cut_repeats

    def _submit(self, generations: Sequence[Generation], wanted: GenerationRequest) -> list[AsyncCompletion]:
        """Submit all or none."""
        if self._admitted + len(generations) > self._max_admitted:
            sentence = f"{self._admitted} answers are under way already, too many for this one; try again in a while."
            raise ApiError(503, sentence, code="queue_full", retry_after=_RETRY_SECONDS)
        service = self._service
        cuts = self._cuts_repeats(wanted)
        completions: list[AsyncCompletion] = []
        try:
            for generation in generations:
                completions.append(AsyncCompletion(service.engine, service.vocabulary, generation, wanted.stop, cuts))
                self._admitted += 1
        except (ValueError, EngineStopped) as error:
            self._release(completions)
            stopped = isinstance(error, EngineStopped)
            raise engine_stopped() if stopped else ApiError(400, str(error), code="invalid_value") from None
        return completions

    def _release(self, completions: Sequence[AsyncCompletion]) -> None:
        self._admitted -= len(completions)
        for completion in completions:
            completion.withdraw()


async def _finish(completions: Sequence[AsyncCompletion]) -> list[Completed]:
    async with aclosing(_merged(completions)) as texts:
        async for _ in texts:
            pass
    answers = [completion.result() for completion in completions]
    if any(done.finish_reason == "cancelled" for done in answers):
        raise engine_stopped()
    return answers


async def _stream(completions: Sequence[AsyncCompletion], answer: TextAnswer) -> AsyncGenerator[str, None]:
    for index in range(len(completions)):
        for event in answer.opening(index):
            yield event
    async with aclosing(_merged(completions)) as texts:
        async for index, text in texts:
            done = completions[index].result() if text is None else None
            if done is not None and done.finish_reason == "cancelled":
                for event in answer.failure(engine_stopped()):
                    yield event
                return
            for event in answer.chunk(index, text or "") if done is None else answer.ending(index, done):
                yield event
    for event in answer.closing([completion.result() for completion in completions]):
        yield event


async def _merged(completions: Sequence[AsyncCompletion]) -> AsyncGenerator[tuple[int, str | None], None]:
    """Yield the texts of several completions as they come, each with its index; None at the end of each."""
    inbox: asyncio.Queue[tuple[int, str | Exception | None]] = asyncio.Queue(_AHEAD)

    async def read(index: int, completion: AsyncCompletion) -> None:
        last = None
        try:
            async for text in completion:
                await inbox.put((index, text))
        except Exception as error:
            last = error  # raised where the texts are read
        await inbox.put((index, last))

    tasks = [asyncio.ensure_future(read(*numbered)) for numbered in enumerate(completions)]
    try:
        num_open = len(tasks)
        while num_open:
            index, text = await inbox.get()
            if isinstance(text, Exception):
                raise text
            num_open -= text is None
            yield index, text
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
