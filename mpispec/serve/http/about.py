"""What clients ask about the server before and between requests: models, health, tokens."""

from __future__ import annotations

import asyncio
import datetime
import time
from fnmatch import fnmatchcase
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mpispec.runtime.engine import EngineStopped, Generation
from mpispec.serve.api.request import parse
from mpispec.serve.errors import ApiError
from mpispec.serve.http.body import read_body
from mpispec.serve.http.gate import Drain
from mpispec.serve.text.completion import AsyncCompletion
from mpispec.serve.text.hearing import hear
from mpispec.serve.text.service import Service

PROBE_SECONDS = 10.0
"""How long a question after the health waits for the first token."""


class TokenizeRequest(BaseModel):
    """Body of POST /tokenize, as llama.cpp (`content`) and vLLM (`prompt`) have it."""

    model_config = ConfigDict(strict=True)

    content: str = Field(validation_alias=AliasChoices("content", "prompt"))
    add_special: bool | None = Field(None, validation_alias=AliasChoices("add_special", "add_special_tokens"))
    """Whether the token that begins a text comes first."""
    parse_special: bool | None = None
    """Whether control tokens that are spelled out become those tokens."""


class DetokenizeRequest(BaseModel):
    """Body of POST /detokenize."""

    model_config = ConfigDict(strict=True)

    tokens: list[int]


class About:
    """The endpoints that generate nothing; lives on one event loop."""

    def __init__(self, service: Service, drain: Drain) -> None:
        self._service = service
        self._drain = drain
        self._created = int(time.time())
        self._is_ready = False
        self._probe: asyncio.Task[bool] | None = None

    def check_model(self, name: str) -> None:
        """Raise ApiError unless a request may ask for this model."""
        service = self._service
        is_known = name.removesuffix(".gguf") == service.model
        if not is_known and not any(fnmatchcase(name, pattern) for pattern in service.aliases):
            sentence = f"This server has no model {name!r}; it has {service.model!r}. Other names: serve --alias."
            raise ApiError(404, sentence, param="model", code="model_not_found")

    async def models(self, http: Request) -> Response:
        """GET /v1/models."""
        names = [self._service.model, *(name for name in self._service.aliases if not set("*?[") & set(name))]
        data = [self._model(name) for name in names]
        # The last three are for Anthropic's clients.
        pages = {"has_more": False, "first_id": names[0], "last_id": names[-1]}
        return JSONResponse({"object": "list", "data": data, **pages})

    async def model(self, http: Request) -> Response:
        """GET /v1/models/{name}."""
        name = http.path_params["name"]
        if not name:
            return await self.models(http)
        self.check_model(name)
        return JSONResponse(self._model(name))

    async def health(self, http: Request) -> Response:
        """GET /health: ready once a token has been computed, which the first question sees to, and until the end."""
        exactness = self._exactness()
        if not self._service.engine.is_running:
            return JSONResponse({"status": "stopped"}, 503)
        if self._drain.has_begun:
            return JSONResponse({"status": "draining"}, 503)
        if await self._has_computed():
            return JSONResponse({"status": "ok", **exactness})
        return JSONResponse({"status": "no token computed yet"}, 503, {"Retry-After": "1"})

    async def stats(self, http: Request) -> Response:
        """GET /stats: counters since the start, of which two readings tell what happened between them."""
        engine = self._service.engine
        stats, ranks = await run_in_threadpool(lambda: (engine.stats(), engine.ranks()))
        return JSONResponse({**stats, "ranks": [{"rank": rank, **each} for rank, each in ranks.items()]})

    async def tokenize(self, http: Request) -> Response:
        """POST /tokenize."""
        asked = parse(TokenizeRequest, await read_body(http))
        special = asked.parse_special is not False
        begin = asked.add_special is True
        tokens = await run_in_threadpool(self._service.vocabulary.tokenize, asked.content, special, begin)
        context = self._service.context
        return JSONResponse({"tokens": tokens, "count": len(tokens), "max_model_len": context})

    async def tokenizer_info(self, http: Request) -> Response:
        """GET /tokenizer_info: the tokens that frame a text, spelled out, as vLLM names them."""
        vocabulary = self._service.vocabulary
        ends = {"bos_token": vocabulary.bos, "eos_token": vocabulary.eos, "pad_token": vocabulary.eos}
        spelled = {name: None if token is None else self.text_of([token]) for name, token in ends.items()}
        return JSONResponse({**spelled, "model_max_length": self._service.context})

    async def detokenize(self, http: Request) -> Response:
        """POST /detokenize."""
        tokens = parse(DetokenizeRequest, await read_body(http)).tokens
        self.check_tokens(tokens, "tokens")
        text = self.text_of(tokens)
        return JSONResponse({"content": text, "prompt": text})

    def check_tokens(self, tokens: list[int], param: str) -> None:
        """Raise ApiError where one of them is no token."""
        size = self._service.vocabulary.size
        if not all(0 <= token < size for token in tokens):
            raise ApiError(400, f"{param}: token ids must be from 0 to {size - 1}.", param=param, code="invalid_value")

    def text_of(self, tokens: list[int]) -> str:
        """Return the text of tokens, control tokens spelled out."""
        pieces = (self._service.vocabulary.piece(token, special=True) for token in tokens)
        return b"".join(pieces).decode("utf-8", "replace")

    def _model(self, name: str) -> dict[str, Any]:
        engine = self._service.engine
        created = datetime.datetime.fromtimestamp(self._created, datetime.timezone.utc)
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "mpispec",
            "root": self._service.model,
            "max_model_len": self._service.context,
            "context_length": self._service.context,
            "meta": {"n_ctx": self._service.context, "n_vocab": self._service.vocabulary.size},
            "mpispec": {
                **self._service.manner.fields(),
                "strategies": engine.facts.strategies,
                "drafters": engine.facts.drafters,
                "strategy": engine.default_strategy,
                "drafter": engine.default_drafter,
            },
            **self._exactness(),
            # For Anthropic's clients:
            "type": "model",
            "display_name": self._service.model,
            "created_at": created.isoformat(),
        }

    def _exactness(self) -> dict[str, Any]:
        return self._service.engine.facts.promise.fields()

    async def _has_computed(self) -> bool:
        """Return whether any token has been computed, by whomever; if not, ask for one and wait a while."""
        if not self._is_ready:
            self._is_ready = (await run_in_threadpool(self._service.engine.stats))["tokens"] > 0
        if not self._is_ready:
            if self._probe is None or self._probe.done():
                self._probe = asyncio.ensure_future(self._compute())
            await asyncio.wait({self._probe}, timeout=PROBE_SECONDS)
            self._is_ready = self._probe.done() and self._probe.result()
        return self._is_ready

    async def _compute(self) -> bool:
        service = self._service
        prompt = tuple(service.vocabulary.tokenize("Hello", special=False))
        try:
            completion = AsyncCompletion(service.engine, service.vocabulary, Generation(prompt, max_tokens=1))
        except (ValueError, EngineStopped):
            return False
        await hear([completion], lambda index, pieces: True)
        return bool(completion.tokens)
