"""The HTTP side: routes to one engine, and what goes wrong on them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mpispec.core.messages import Sampling
from mpispec.models.errors import ModelError
from mpispec.serve.answers import ChatAnswer, TextAnswer
from mpispec.serve.body import read_body
from mpispec.serve.chat import ChatRequest
from mpispec.serve.errors import ApiError
from mpispec.serve.exchange import MAX_QUEUE, Exchange
from mpispec.serve.guard import Guard
from mpispec.serve.messages import MessagesRequest
from mpispec.serve.messages_answer import MessagesAnswer
from mpispec.serve.prompt import Prompt
from mpispec.serve.request import Wanted, parse_request
from mpispec.serve.responses import ResponsesRequest
from mpispec.serve.responses_answer import ResponsesAnswer
from mpispec.serve.service import Service
from mpispec.serve.texts import TextRequest


class Api:
    """The endpoints; lives on one event loop."""

    def __init__(self, service: Service, max_queue: int = MAX_QUEUE) -> None:
        self._service = service
        self._exchange = Exchange(service, max_queue)
        self._created = int(time.time())

    async def chat(self, http: Request) -> Response:
        """POST /v1/chat/completions."""
        wanted = await self._parse(http, ChatRequest)
        prompt = await self._prompt(wanted)
        return await self._exchange.answer(http, wanted, [prompt], self._shape(ChatAnswer, wanted))

    async def complete(self, http: Request) -> Response:
        """POST /v1/completions."""
        wanted = await self._parse(http, TextRequest)
        prompts = await run_in_threadpool(lambda: [Prompt(self._tokens(prompt)) for prompt in wanted.prompt])
        echoes = tuple(self._text(prompt) for prompt in wanted.prompt) if wanted.echo else ()
        return await self._exchange.answer(http, wanted, prompts, self._shape(TextAnswer, wanted, echoes))

    async def respond(self, http: Request) -> Response:
        """POST /v1/responses."""
        wanted = await self._parse(http, ResponsesRequest)
        prompt = await self._prompt(wanted)
        return await self._exchange.answer(
            http, wanted, [prompt], lambda sampling: ResponsesAnswer(self._service.model, wanted, sampling)
        )

    async def message(self, http: Request) -> Response:
        """POST /v1/messages."""
        wanted = await self._parse(http, MessagesRequest)
        prompt = await self._prompt(wanted)
        count = len(prompt.tokens)
        return await self._exchange.answer(
            http, wanted, [prompt], lambda sampling: MessagesAnswer(self._service.model, sampling.seed, count)
        )

    async def count_tokens(self, http: Request) -> Response:
        """POST /v1/messages/count_tokens."""
        prompt = await self._prompt(await self._parse(http, MessagesRequest))
        return JSONResponse({"input_tokens": len(prompt.tokens)})

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
            return JSONResponse({"status": "ok", **self._exactness()})
        return JSONResponse({"status": "stopped"}, 503)

    def _model(self) -> dict[str, Any]:
        return {
            "id": self._service.model,
            "object": "model",
            "created": self._created,
            "owned_by": "mpispec",
            "mpispec": self._service.manner.fields(),
            **self._exactness(),
        }

    def _exactness(self) -> dict[str, Any]:
        promise = self._service.engine.promise
        return {"is_exact": promise.is_exact, "exactness": str(promise)}

    def _check_model(self, name: str) -> None:
        known = self._service.model
        if name != known:
            sentence = f"This server has no model {name!r}; it has {known!r}."
            raise ApiError(404, sentence, param="model", code="model_not_found")

    async def _parse(self, http: Request, kind: type[Wanted]) -> Wanted:
        wanted = parse_request(kind, await read_body(http))
        if wanted.model:
            self._check_model(wanted.model)
        engine = self._service.engine
        _check_choice("strategy", wanted.strategy, engine.strategies)
        _check_choice("drafter", wanted.drafter, engine.drafters)
        return wanted

    async def _prompt(self, wanted: ChatRequest | ResponsesRequest | MessagesRequest) -> Prompt:
        dialogue = wanted.dialogue()
        try:
            return await run_in_threadpool(self._service.prompts.prompt, dialogue)
        except ModelError as error:
            raise ApiError(400, str(error), param=wanted.prompt_field, code="invalid_value") from None

    def _shape(
        self, form: type[TextAnswer], wanted: ChatRequest | TextRequest, echoes: tuple[str, ...] = ()
    ) -> Callable[[Sampling], TextAnswer]:
        def shape(sampling: Sampling) -> TextAnswer:
            return form(self._service.model, sampling.seed, wanted.num_choices, wanted.includes_usage, echoes)

        return shape

    def _tokens(self, prompt: str | list[int]) -> list[int]:
        vocabulary = self._service.vocabulary
        if isinstance(prompt, str):
            return vocabulary.tokenize(prompt, special=True)
        if min(prompt) < 0 or max(prompt) >= vocabulary.size:
            sentence = f"prompt: token ids must be from 0 to {vocabulary.size - 1}."
            raise ApiError(400, sentence, param="prompt", code="invalid_value")
        return prompt

    def _text(self, prompt: str | list[int]) -> str:
        if isinstance(prompt, str):
            return prompt
        pieces = (self._service.vocabulary.piece(token, special=True) for token in prompt)
        return b"".join(pieces).decode("utf-8", "replace")


def _check_choice(param: str, name: str | None, known: tuple[str, ...]) -> None:
    if name is not None and name not in known:
        sentence = f"There is no {param} {name!r}; choose one of {', '.join(known)}."
        raise ApiError(400, sentence, param=param, code="invalid_value")


async def _answer_api_error(http: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body_for(http.scope["path"]), error.status, error.headers())


async def _answer_http_error(http: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = {404: f"There is no {http.scope['path']} here.", 405: f"{http.method} is not allowed here."}
    answer = ApiError(error.status_code, sentence.get(error.status_code, error.detail), code="not_found")
    if error.status_code == 405:
        answer.code = "method_not_allowed"
    return JSONResponse(answer.body_for(http.scope["path"]), error.status_code, error.headers)


async def _answer_disconnect(http: Request, error: Exception) -> Response:
    """Answer nobody: the client left while its body was read, which is no fault of the server."""
    return Response(status_code=400)


async def _answer_bug(http: Request, error: Exception) -> Response:
    """Answer for an exception nobody expected; starlette raises it again, so that it is logged with its traceback."""
    answer = ApiError(500, "The server failed; its log has the cause.", code="internal")
    return JSONResponse(answer.body_for(http.scope["path"]), 500)


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
            Route("/v1/responses", api.respond, methods=["POST"]),
            Route("/v1/messages", api.message, methods=["POST"]),
            Route("/v1/messages/count_tokens", api.count_tokens, methods=["POST"]),
            Route("/v1/models", api.models, methods=["GET"]),
            Route("/v1/models/{name:path}", api.model, methods=["GET"]),
            Route("/health", api.health, methods=["GET"]),
        ],
        middleware=[Middleware(Guard, key=key)],
        exception_handlers=handlers,
    )
    app.router.redirect_slashes = False
    return app
