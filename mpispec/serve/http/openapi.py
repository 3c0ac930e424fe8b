"""GET /openapi.json: the endpoints and what they take, for programs that read such documents."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import mpispec
from mpispec.serve.api.chat import ChatRequest
from mpispec.serve.api.messages import MessagesRequest
from mpispec.serve.api.responses import ResponsesRequest
from mpispec.serve.api.texts import TextRequest
from mpispec.serve.http.about import DetokenizeRequest, TokenizeRequest

_POSTS: dict[str, tuple[type[BaseModel], str]] = {
    "/v1/chat/completions": (ChatRequest, "Answer a chat"),
    "/v1/completions": (TextRequest, "Continue texts"),
    "/v1/responses": (ResponsesRequest, "Answer a conversation, in OpenAI's newer form"),
    "/v1/messages": (MessagesRequest, "Answer a conversation, in Anthropic's form"),
    "/v1/messages/count_tokens": (MessagesRequest, "Count the tokens of a conversation"),
    "/tokenize": (TokenizeRequest, "Turn text into tokens"),
    "/detokenize": (DetokenizeRequest, "Turn tokens into text"),
}
_GETS = {
    "/v1/models": "List the names of the model",
    "/v1/models/{name}": "Describe the model",
    "/tokenizer_info": "Name the tokens that frame a text",
    "/health": "Tell whether tokens can be computed",
    "/stats": "Count what happened since the start, and say what each rank does",
    "/metrics": "The same for Prometheus",
}
_TEXTS = {
    "/metrics": "text/plain",
    "/v1/chat/completions": "text/event-stream",
    "/v1/completions": "text/event-stream",
    "/v1/responses": "text/event-stream",
    "/v1/messages": "text/event-stream",
}
"""Endpoints that answer with text, or may."""
_OBJECT = {"type": "object"}
_ERROR = {
    "description": "What is wrong, in one sentence with the remedy",
    "content": {"application/json": {"schema": {**_OBJECT, "required": ["error"]}}},
}


def document() -> dict[str, Any]:
    """Return the OpenAPI document of the server."""
    kinds = {kind for kind, _ in _POSTS.values()}
    models = sorted(((kind, "validation") for kind in kinds), key=lambda pair: pair[0].__name__)
    _, schemas = models_json_schema(models, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    paths: dict[str, Any] = {}
    for path, (kind, summary) in _POSTS.items():
        body = {"$ref": f"#/components/schemas/{kind.__name__}"}
        paths[path] = {
            "post": {
                "summary": summary,
                "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
                "responses": _responses(path),
            }
        }
    for path, summary in _GETS.items():
        name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
        parameters = {"parameters": [name]} if "{name}" in path else {}
        paths[path] = {"get": {"summary": summary, "responses": _responses(path), **parameters}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "mpispec", "version": mpispec.__version__},
        "security": [{}, {"key": []}],
        "paths": paths,
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}, "schemas": schemas["$defs"]},
    }


def _responses(path: str) -> dict[str, Any]:
    is_text = path in _GETS and path in _TEXTS
    content: dict[str, Any] = {} if is_text else {"application/json": {"schema": _OBJECT}}
    if path in _TEXTS:
        content[_TEXTS[path]] = {"schema": {"type": "string"}}
    return {"200": {"description": "The answer", "content": content}, "4XX": _ERROR, "503": _ERROR}
