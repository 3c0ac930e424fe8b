"""From the prompts of a request to its response: whole or streamed, one answer or several at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mpispec.core.messages import Sampling
from mpispec.runtime.engine import EngineStopped, Generation
from mpispec.serve.api.answers import Answer, Answered
from mpispec.serve.api.request import GenerationRequest
from mpispec.serve.errors import ApiError, engine_stopped
from mpispec.serve.http.events import EventStream, Sink, unless_gone
from mpispec.serve.http.facts import note
from mpispec.serve.http.guard import key_of
from mpispec.serve.http.places import Places
from mpispec.serve.text.answer_grammar import AnswerGrammars
from mpispec.serve.text.completion import AsyncCompletion, Completed
from mpispec.serve.text.hearing import hear
from mpispec.serve.text.prompt import Prompt
from mpispec.serve.text.service import Service
from mpispec.serve.text.turn import Piece, Turn
from mpispec.wire.fields import MAX_SEED


class Exchange:
    """Has requests answered, so many at once; lives on one event loop."""

    def __init__(self, service: Service, ping_s: float, places: Places) -> None:
        self._service = service
        self._ping_s = ping_s or None
        self._places = places
        self._grammars = AnswerGrammars(service.vocabulary)

    async def answer(
        self,
        http: Request,
        wanted: GenerationRequest,
        prompts: Sequence[Prompt],
        shape: Callable[[Sampling], Answer],
    ) -> Response:
        """Return the response to a request; `shape` makes the form of its answers, the first of them drawn so.

        Raises ApiError.
        """
        seed = self._service.manner.pick_seed() if wanted.seed is None else wanted.seed
        structure = wanted.structure()
        grammar = await self._grammars.grammar(structure, prompts[0].frame)
        generations = [
            (prompt, self._generation(wanted, prompt, (seed + choice) & MAX_SEED, grammar))
            for prompt in prompts
            for choice in range(wanted.num_choices)
        ]
        completions = self._submit(http, generations, wanted)
        is_json = structure is not None and structure.kind == "json"
        answer = shape(generations[0][1].sampling)
        if wanted.stream:
            write = partial(_stream, completions, answer, is_json)
            return EventStream(write, lambda: self._release(http, completions), answer.ping, self._ping_s)
        try:
            answers = await unless_gone(http.receive, _finish(completions, is_json))
        finally:
            self._release(http, completions)
        return Response(status_code=400) if answers is None else JSONResponse(answer.whole(answers))

    def _generation(self, wanted: GenerationRequest, prompt: Prompt, seed: int, grammar: str) -> Generation:
        room = self._service.room(prompt.tokens)
        if room < 1:
            number = len(prompt.tokens) + prompt.num_unread
            raise ApiError(
                400,
                # Agents look for these words, and shorten their conversation.
                f"The prompt is too long: {number} tokens > {self._service.context - 1} maximum; shorten it, or "
                "start mpispec serve with a larger --ctx.",
                param=wanted.prompt_field,
                code="context_length_exceeded",
            )
        return Generation(
            prompt=tuple(prompt.tokens),
            max_tokens=room if wanted.limit is None else min(wanted.limit, room),
            sampling=replace(wanted.sampling(self._service.manner.defaults(wanted.temperature), seed), grammar=grammar),
            min_tokens=wanted.min_tokens or 0,
            ignore_eos=bool(wanted.ignore_eos),
            stop_token_ids=tuple(wanted.stop_token_ids or ()),
            strategy=wanted.strategy,
            drafter=wanted.drafter,
            priority=wanted.priority or 0,
            timeout_s=wanted.timeout,
            is_traced=wanted.includes_drafts,
        )

    def _cuts_repeats(self, wanted: GenerationRequest) -> bool:
        """Return whether an answer may be cut: by the request, else in a chat as the server says."""
        if wanted.cut_repeats is None:
            return self._service.manner.cuts_repeats and wanted.is_chat
        return wanted.cut_repeats

    def _submit(
        self, http: Request, generations: Sequence[tuple[Prompt, Generation]], wanted: GenerationRequest
    ) -> list[AsyncCompletion]:
        """Submit all or none."""
        self._places.take(key_of(http.scope), len(generations))
        engine, vocabulary = self._service.engine, self._service.vocabulary
        cuts = self._cuts_repeats(wanted)
        completions: list[AsyncCompletion] = []
        try:
            for prompt, generation in generations:
                completions.append(
                    AsyncCompletion(engine, vocabulary, generation, wanted.stop, cuts, prompt, wanted.num_top)
                )
        except (ValueError, EngineStopped) as error:
            self._release(http, completions, len(generations))
            stopped = isinstance(error, EngineStopped)
            raise engine_stopped() if stopped else ApiError(400, str(error), code="invalid_value") from None
        return completions

    def _release(self, http: Request, completions: Sequence[AsyncCompletion], count: int | None = None) -> None:
        """Give the places of completions back, or `count` if not all were made, and end what is under way."""
        self._places.give_back(key_of(http.scope), len(completions) if count is None else count)
        note(http.scope, completions)
        for completion in completions:
            completion.withdraw()


def _ended(completion: AsyncCompletion, turn: Turn, is_json: bool) -> Completed:
    """Return what came out. JSON that ended too soon was cut: it repeated itself, or its grammar became too complex."""
    done = completion.result()
    if not is_json or turn.calls or done.stop is not None or done.finish_reason != "stop":
        return done
    try:
        json.loads(turn.text, parse_int=float)  # any length of integer
    except ValueError:
        return replace(done, finish_reason="length")
    except RecursionError:
        pass  # it is too deep for this parser
    return done


async def _finish(completions: Sequence[AsyncCompletion], is_json: bool) -> list[Answered]:
    turns = [Turn() for _ in completions]

    def take(index: int, pieces: list[Piece]) -> bool:
        for piece in pieces:
            turns[index].add(piece)
        return True

    await hear(completions, take)
    answers = [_ended(completion, turn, is_json) for completion, turn in zip(completions, turns, strict=True)]
    if (failure := _failure(answers, completions)) is not None:
        raise failure
    return list(zip(turns, answers, strict=True))


def _failure(ended: Sequence[Completed], completions: Sequence[AsyncCompletion]) -> ApiError | None:
    """Return what went wrong, now that some have ended: the engine has stopped, or not a token came in time."""
    if any(done.finish_reason == "cancelled" for done in ended):
        return engine_stopped()
    if any(done.finish_reason == "timeout" for done in ended) and not any(one.tokens for one in completions):
        return ApiError(504, "No token was ready in time; allow a longer timeout.", param="timeout", code="timeout")
    return None


async def _stream(completions: Sequence[AsyncCompletion], answer: Answer, is_json: bool, sink: Sink) -> None:
    """Write the events, those that are ready at once as one text."""
    turns = [Turn() for _ in completions]
    ended: dict[int, Completed] = {}

    def take(index: int, pieces: list[Piece]) -> bool:
        events: list[str] = []
        for piece in pieces:
            turns[index].add(piece)
            events += answer.chunk(index, piece)
        if completions[index].has_ended:
            done = ended[index] = _ended(completions[index], turns[index], is_json)
            if (failure := _failure([done], completions)) is not None:
                sink.write("".join(events))
                raise failure
            events += answer.ending(index, turns[index], done)
        return sink.write("".join(events))

    sink.write("".join(event for index in range(len(completions)) for event in answer.opening(index)))
    try:
        await hear(completions, take, sink.drain)
    except ApiError as failure:
        sink.write("".join(answer.failure(failure)))
    else:
        sink.write("".join(answer.closing([(turn, ended[index]) for index, turn in enumerate(turns)])))
