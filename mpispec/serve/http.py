"""The HTTP side: OpenAI's completions and chat completions over one engine."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from mpispec.models.errors import ModelError
from mpispec.runtime.engine import EngineStopped, Generation
from mpispec.serve.answers import ApiError, ChatAnswer, TextAnswer
from mpispec.serve.completion import AsyncCompletion
from mpispec.serve.guard import Guard
from mpispec.serve.schema import ChatRequest, CompletionRequest, TextRequest, Wanted, parse_request
from mpispec.serve.service import Service

MAX_BODY = 8 << 20
"""Bytes."""
BODY_SECONDS = 60.0
"""A body that takes longer is given up."""
MAX_QUEUE = 64
"""Requests that may wait behind the one that runs."""
_RETRY_SECONDS = 5


class Api:
    """The endpoints; lives on one event loop."""

    def __init__(self, service: Service, max_queue: int = MAX_QUEUE) -> None:
        self._service = service
        self._max_admitted = max_queue + 1
        self._admitted = 0
        self._created = int(time.time())

    async def chat(self, http: Request) -> Response:
        """POST /v1/chat/completions."""
        wanted = await self._parse(http, ChatRequest)
        messages = [message.plain() for message in wanted.messages]

        def tokenize() -> list[int]:
            return self._service.vocabulary.tokenize(self._service.render(messages), special=True)

        try:
            prompt = await run_in_threadpool(tokenize)
        except ModelError as error:
            raise ApiError(400, str(error), param="messages", code="invalid_value") from None
        return await self._answer(http, wanted, prompt, ChatAnswer)

    async def complete(self, http: Request) -> Response:
        """POST /v1/completions."""
        wanted = await self._parse(http, TextRequest)
        vocabulary = self._service.vocabulary
        if isinstance(wanted.prompt, str):
            prompt = await run_in_threadpool(vocabulary.tokenize, wanted.prompt, special=True)
        else:
            prompt = wanted.prompt
            if min(prompt) < 0 or max(prompt) >= vocabulary.size:
                sentence = f"prompt: token ids must be from 0 to {vocabulary.size - 1}."
                raise ApiError(400, sentence, param="prompt", code="invalid_value")
        return await self._answer(http, wanted, prompt, TextAnswer)

    async def models(self, http: Request) -> Response:
        """GET /v1/models."""
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, http: Request) -> Response:
        """GET /v1/models/{name}."""
        self._check_model(http.path_params["name"])
        return JSONResponse(self._model())

    async def health(self, http: Request) -> Response:
        """GET /health."""
        if self._service.engine.is_running:
            return JSONResponse({"status": "ok", **self._service.engine.promise.fields()})
        return JSONResponse({"status": "stopped"}, 503)

    async def stats(self, http: Request) -> Response:
        """GET /stats: counters since the start, of which two readings tell what happened between them."""
        engine = self._service.engine
        busy = await run_in_threadpool(engine.busy_s)
        ranks = [{"rank": rank, "busy_s": round(seconds, 6)} for rank, seconds in sorted(busy.items())]
        return JSONResponse({**engine.stats(), "ranks": ranks})

    def _model(self) -> dict[str, Any]:
        return {
            "id": self._service.model,
            "object": "model",
            "created": self._created,
            "owned_by": "mpispec",
            "mpispec": self._service.manner.fields(),
            **self._service.engine.promise.fields(),
        }

    def _check_model(self, name: str) -> None:
        known = self._service.model
        if name != known:
            sentence = f"This server has no model {name!r}; it has {known!r}."
            raise ApiError(404, sentence, param="model", code="model_not_found")

    async def _parse(self, http: Request, kind: type[Wanted]) -> Wanted:
        wanted = parse_request(kind, await read_body(http))
        if wanted.model is not None:
            self._check_model(wanted.model)
        engine = self._service.engine
        _check_choice("strategy", wanted.strategy, engine.strategies)
        _check_choice("drafter", wanted.drafter, engine.drafters)
        return wanted

    def _generation(self, wanted: CompletionRequest, prompt: list[int]) -> Generation:
        room = self._service.room(prompt)
        if room < 1:
            raise ApiError(
                400,
                f"The prompt has {len(prompt)} tokens and the context {self._service.engine.context}; shorten it.",
                param="messages" if isinstance(wanted, ChatRequest) else "prompt",
                code="context_length_exceeded",
            )
        seed = self._service.manner.pick_seed() if wanted.seed is None else wanted.seed
        return Generation(
            prompt=tuple(prompt),
            max_tokens=room if wanted.limit is None else min(wanted.limit, room),
            sampling=wanted.sampling(self._service.manner.defaults(wanted.temperature), seed),
            strategy=wanted.strategy,
            drafter=wanted.drafter,
        )

    async def _answer(
        self, http: Request, wanted: CompletionRequest, prompt: list[int], shape: type[TextAnswer]
    ) -> Response:
        generation = self._generation(wanted, prompt)
        answer = shape(model=self._service.model, seed=generation.sampling.seed)
        completion = self._submit(generation, wanted)
        if wanted.stream:
            events = self._stream(completion, answer, wanted.includes_usage)
            return EventStream(events, on_end=lambda: self._release(completion))
        try:
            whole = await unless_gone(http.receive, self._finish(completion, answer))
        finally:
            self._release(completion)
        return Response(status_code=400) if whole is None else JSONResponse(whole)

    def _cuts_repeats(self, wanted: CompletionRequest) -> bool:
        """Return whether an answer may be cut: by the request, else in a chat as the server says."""
        if wanted.cut_repeats is None:
            return self._service.manner.cuts_repeats and isinstance(wanted, ChatRequest)
        return wanted.cut_repeats

    def _submit(self, generation: Generation, wanted: CompletionRequest) -> AsyncCompletion:
        if self._admitted >= self._max_admitted:
            sentence = f"{self._admitted} requests are waiting already; try again in a while."
            raise ApiError(503, sentence, code="queue_full", retry_after=_RETRY_SECONDS)
        try:
            service = self._service
            cuts = self._cuts_repeats(wanted)
            completion = AsyncCompletion(service.engine, service.vocabulary, generation, wanted.stop, cuts)
        except ValueError as error:
            raise ApiError(400, str(error), code="invalid_value") from None
        except EngineStopped:
            raise _engine_stopped() from None
        self._admitted += 1
        return completion

    def _release(self, completion: AsyncCompletion) -> None:
        self._admitted -= 1
        completion.withdraw()

    async def _finish(self, completion: AsyncCompletion, answer: TextAnswer) -> dict[str, Any]:
        async for _ in completion:
            pass
        done = completion.result()
        if done.finish_reason == "cancelled":
            raise _engine_stopped()
        return answer.whole(done)

    async def _stream(
        self, completion: AsyncCompletion, answer: TextAnswer, includes_usage: bool
    ) -> AsyncGenerator[str, None]:
        opening = answer.opening()
        if opening is not None:
            yield _encode(opening)
        async for text in completion:
            yield _encode(answer.chunk(text))
        done = completion.result()
        if done.finish_reason == "cancelled":
            yield _encode(_engine_stopped().body())
            return
        yield _encode(answer.ending(done))
        if includes_usage:
            yield _encode(answer.usage(done))
        yield "[DONE]"


Result = TypeVar("Result")


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result | None:
    """Return the result of `work`, or None if the client leaves before; `work` is cancelled then.

    `receive` must have given the whole body already.
    """
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


class EventStream(Response):
    """Sends each item of `events` as one event; calls `on_end` after the last, or when the client has gone."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[str, None], on_end: Callable[[], None]) -> None:
        # Some proxies (nginx) collect an answer unless a header forbids it.
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_gone(receive, self._write(send))
        finally:
            self._on_end()

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with aclosing(self._events) as events:
            async for event in events:
                await send({"type": "http.response.body", "body": f"data: {event}\n\n".encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _check_choice(param: str, name: str | None, known: tuple[str, ...]) -> None:
    if name is not None and name not in known:
        sentence = f"There is no {param} {name!r}; choose one of {', '.join(known)}."
        raise ApiError(400, sentence, param=param, code="invalid_value")


def _engine_stopped() -> ApiError:
    return ApiError(503, "The engine has stopped; start mpispec serve again.", code="engine_stopped")


def _encode(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


async def read_body(http: Request) -> bytes:
    """Return the whole body; raises ApiError 413 beyond MAX_BODY and 408 beyond BODY_SECONDS."""
    too_large = ApiError(413, f"The body is larger than {MAX_BODY >> 20} MiB.", code="body_too_large")
    if int(http.headers.get("content-length", 0)) > MAX_BODY:
        raise too_large

    async def gather() -> bytes:
        body = bytearray()
        async for part in http.stream():
            body += part
            if len(body) > MAX_BODY:
                raise too_large
        return bytes(body)

    try:
        return await asyncio.wait_for(gather(), BODY_SECONDS)
    except asyncio.TimeoutError:
        raise ApiError(408, f"The body took longer than {BODY_SECONDS:.0f} s.", code="timeout") from None


async def _answer_api_error(http: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(), error.status, error.headers())


async def _answer_http_error(http: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = {404: f"There is no {http.scope['path']} here.", 405: f"{http.method} is not allowed here."}
    answer = ApiError(error.status_code, sentence.get(error.status_code, error.detail), code="not_found")
    if error.status_code == 405:
        answer.code = "method_not_allowed"
    return JSONResponse(answer.body(), error.status_code, error.headers)


async def _answer_disconnect(http: Request, error: Exception) -> Response:
    """Answer nobody: the client left while its body was read, which is no fault of the server."""
    return Response(status_code=400)


async def _answer_bug(http: Request, error: Exception) -> Response:
    """Answer for an exception nobody expected; starlette raises it again, so that it is logged with its traceback."""
    return JSONResponse(ApiError(500, "The server failed; its log has the cause.", code="internal").body(), 500)


Handler = Callable[[Request, Exception], Awaitable[Response]]


def make_app(service: Service, key: str | None, max_queue: int = MAX_QUEUE) -> Starlette:
    """Return the ASGI application; `key` is asked for if set, else only loopback may be served."""
    api = Api(service, max_queue)
    handlers: dict[Any, Handler] = {
        ApiError: _answer_api_error,
        HTTPException: _answer_http_error,
        ClientDisconnect: _answer_disconnect,
        Exception: _answer_bug,
    }
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", api.chat, methods=["POST"]),
            Route("/v1/completions", api.complete, methods=["POST"]),
            Route("/v1/models", api.models, methods=["GET"]),
            Route("/v1/models/{name:path}", api.model, methods=["GET"]),
            Route("/health", api.health, methods=["GET"]),
            Route("/stats", api.stats, methods=["GET"]),
        ],
        middleware=[Middleware(Guard, key=key)],
        exception_handlers=handlers,
    )
    app.router.redirect_slashes = False
    return app
