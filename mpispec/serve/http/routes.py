"""The HTTP side: routes to one engine, and what goes wrong on them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mpispec.core.messages import Sampling
from mpispec.models.errors import ModelError
from mpispec.runtime.engine import EngineStopped
from mpispec.serve.api.answers import ChatAnswer, TextAnswer
from mpispec.serve.api.chat import ChatRequest
from mpispec.serve.api.messages import MessagesRequest
from mpispec.serve.api.messages_answer import MessagesAnswer
from mpispec.serve.api.request import Wanted, parse_request
from mpispec.serve.api.responses import ResponsesRequest
from mpispec.serve.api.responses_answer import ResponsesAnswer
from mpispec.serve.api.texts import TextRequest, infilled
from mpispec.serve.errors import ApiError, engine_stopped
from mpispec.serve.http.about import About
from mpispec.serve.http.address import Access
from mpispec.serve.http.body import read_body
from mpispec.serve.http.exchange import Exchange
from mpispec.serve.http.gate import Drain, Gate
from mpispec.serve.http.guard import Guard
from mpispec.serve.http.metrics import Metrics, MetricsPage
from mpispec.serve.http.openapi import document
from mpispec.serve.http.page_files import PREFIX, Page
from mpispec.serve.http.places import Places
from mpispec.serve.http.watch import ID_HEADER, Watch
from mpispec.serve.text.prompt import Prompt, read
from mpispec.serve.text.service import Service


class Api:
    """The endpoints that generate; lives on one event loop."""

    def __init__(self, service: Service, about: About, exchange: Exchange) -> None:
        self._service = service
        self._about = about
        self._exchange = exchange

    async def chat(self, http: Request) -> Response:
        """POST /v1/chat/completions."""
        wanted = await self._parse(http, ChatRequest)
        prompt = await self._prompt(wanted)
        form = partial(ChatAnswer, customs=frozenset(wanted.texts))
        return await self._exchange.answer(http, wanted, [prompt], self._shape(form, wanted))

    async def complete(self, http: Request) -> Response:
        """POST /v1/completions."""
        wanted = await self._parse(http, TextRequest)
        prompts = await run_in_threadpool(lambda: [self._text(prompt, wanted) for prompt in wanted.prompt])
        return await self._exchange.answer(http, wanted, prompts, self._shape(TextAnswer, wanted))

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
        prompt = await self._prompt(await self._parse(http, MessagesRequest), is_counted=True)
        return JSONResponse({"input_tokens": len(prompt.tokens)})

    async def _parse(self, http: Request, kind: type[Wanted]) -> Wanted:
        wanted = parse_request(kind, await read_body(http))
        if wanted.model:
            self._about.check_model(wanted.model)
        engine = self._service.engine
        _check_choice("strategy", wanted.strategy, engine.facts.strategies)
        _check_choice("drafter", wanted.drafter, engine.facts.drafters)
        return wanted

    async def _prompt(
        self, wanted: ChatRequest | ResponsesRequest | MessagesRequest, is_counted: bool = False
    ) -> Prompt:
        context = None if is_counted else self._service.context
        dialogue = wanted.dialogue()
        try:
            return await run_in_threadpool(self._service.prompts.prompt, dialogue, context)
        except ModelError as error:
            raise ApiError(400, str(error), param=wanted.prompt_field, code="invalid_value") from None

    def _shape(
        self, form: Callable[..., TextAnswer], wanted: ChatRequest | TextRequest
    ) -> Callable[[Sampling], TextAnswer]:
        def shape(sampling: Sampling) -> TextAnswer:
            return form(self._service.model, sampling.seed, wanted.num_choices, wanted.includes_usage)

        return shape

    def _text(self, prompt: str | list[int], wanted: TextRequest) -> Prompt:
        """Return a prompt that was given as text or token ids."""
        vocabulary = self._service.vocabulary
        if isinstance(prompt, str):
            tokens, num_unread = read(partial(vocabulary.tokenize, special=True), prompt, self._service.context)
            text = prompt
        else:
            self._about.check_tokens(prompt, "prompt")
            tokens, num_unread = prompt, 0
            text = self._about.text_of(prompt) if wanted.echo else ""
        if wanted.suffix:
            tokens = infilled(vocabulary, tokens, wanted.suffix)
        return Prompt(tokens, echo=text if wanted.echo else None, num_unread=num_unread)


def _check_choice(param: str, name: str | None, known: tuple[str, ...]) -> None:
    if name is not None and name not in known:
        sentence = f"There is no {param} {name!r}; choose one of {', '.join(known)}."
        raise ApiError(400, sentence, param=param, code="invalid_value")


async def _answer_api_error(http: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body_for(http.scope["path"]), error.status, error.headers())


async def _answer_stopped(http: Request, error: Exception) -> Response:
    return await _answer_api_error(http, engine_stopped())


async def _answer_http_error(http: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    nothing = f"There is no {http.scope['path']} here; chats are at /v1/chat/completions, the model at /v1/models."
    sentence = {404: nothing, 405: f"{http.method} is not allowed here."}
    if http.method == "OPTIONS" and "origin" in http.headers:
        sentence[405] = "Web pages that may use this server are named with mpispec serve --cors-origin."
    answer = ApiError(error.status_code, sentence.get(error.status_code, error.detail), code="not_found")
    if error.status_code == 405:
        answer.code = "method_not_allowed"
    return JSONResponse(answer.body_for(http.scope["path"]), error.status_code, error.headers)


async def _answer_disconnect(http: Request, error: Exception) -> Response:
    """Answer nobody: the client left while its body was read, which is no fault of the server."""
    return Response(status_code=400)


async def _answer_bug(http: Request, error: Exception) -> Response:
    """Answer for an exception nobody expected; starlette raises it again, and `Watch` logs it with its traceback."""
    answer = ApiError(500, "The server failed; its log has the cause.", code="internal")
    return JSONResponse(answer.body_for(http.scope["path"]), 500)


Handler = Callable[[Request, Exception], Awaitable[Response]]


def make_app(service: Service, access: Access, ping_s: float, drain: Drain) -> Watch:
    """Return the ASGI application; without keys in `access` only loopback may be served."""
    metrics = Metrics()
    about = About(service, drain)
    places = Places(access.most_open, access.most_open_of_key)
    api = Api(service, about, Exchange(service, ping_s, places))
    handlers: dict[Any, Handler] = {
        ApiError: _answer_api_error,
        EngineStopped: _answer_stopped,
        HTTPException: _answer_http_error,
        ClientDisconnect: _answer_disconnect,
        Exception: _answer_bug,
    }
    posts = {
        "/chat/completions": api.chat,
        "/completions": api.complete,
        "/responses": api.respond,
        "/messages": api.message,
        "/messages/count_tokens": api.count_tokens,
        "/tokenize": about.tokenize,
        "/detokenize": about.detokenize,
    }
    described = document()

    async def describe(http: Request) -> Response:
        return JSONResponse(described)

    gets = {
        "/openapi.json": describe,
        "/models": about.models,
        "/models/{name:path}": about.model,
        "/tokenizer_info": about.tokenizer_info,
        "/health": about.health,
        "/stats": about.stats,
        "/metrics": MetricsPage(service, metrics).answer,
    }
    # Some clients take the address with /v1 and some without.
    routes = [
        Route(prefix + path, endpoint, methods=[method])
        for method, endpoints in (("POST", posts), ("GET", gets))
        for path, endpoint in endpoints.items()
        for prefix in ("/v1", "")
    ]
    page = Page()
    routes += [Route("/", page.index), Route(PREFIX + "{name}", page.file)]
    app = Starlette(routes=routes, middleware=_middleware(access, drain), exception_handlers=handlers)
    app.router.redirect_slashes = False
    return Watch(app, metrics, {*posts, *gets, "/"})


def _middleware(access: Access, drain: Drain) -> list[Middleware]:
    inner = [Middleware(Guard, access=access), Middleware(Gate, drain=drain)]
    if not access.origins:
        return inner
    # Before the guard: a browser asks first whether it may send the key, without the key.
    pages = Middleware(
        CORSMiddleware,
        allow_origins=access.origins,
        allow_methods=("GET", "POST"),
        allow_headers=("*",),
        allow_private_network=True,
        expose_headers=("Retry-After", ID_HEADER),
    )
    return [pages, *inner]
