"""What an answer must look like, in the words of OpenAI, vLLM and llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from mpispec.serve.errors import ApiError

MAX_CHOICES = 4096
"""Texts that an answer may be chosen from."""


@dataclass(frozen=True, slots=True)
class Structure:
    """One constraint."""

    kind: Literal["json", "regex", "choice", "grammar"]
    value: Any
    """A JSON schema as an object or a boolean; a regular expression; texts; a grammar in GBNF or Lark."""
    param: str
    """The field that says so."""


class Structured(BaseModel):
    """The fields of a request that say what the answer must look like; one of them at most."""

    model_config = ConfigDict(strict=True)

    response_format: dict[str, Any] | None = None
    """OpenAI's."""
    structured_outputs: dict[str, Any] | None = None
    """vLLM's."""
    guided_json: dict[str, Any] | str | None = None
    """This and the following are older names of vLLM."""
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    grammar: str | None = None
    """This and the following are llama.cpp's."""
    json_schema: dict[str, Any] | None = None

    def structure(self) -> Structure | None:
        """Return what the answer must look like, None where it is free. Raises ApiError."""
        found = [each for each in self._structures() if each is not None]
        if len(found) > 1:
            sentence = f"{found[1].param}: {found[0].param} says already what the answer must look like; send one."
            raise _refused(found[1].param, sentence)
        return found[0] if found else None

    def _structures(self) -> list[Structure | None]:
        return [
            read_format(self.response_format, "response_format"),
            _read_outputs(self.structured_outputs or {}),
            None if self.guided_json is None else _schema(self.guided_json, "guided_json"),
            _given("regex", self.guided_regex, "guided_regex"),
            _given("choice", self.guided_choice, "guided_choice"),
            _given("grammar", self.guided_grammar, "guided_grammar"),
            _given("grammar", self.grammar, "grammar"),
            _schema(self.json_schema, "json_schema") if self.json_schema else None,
        ]


def read_format(value: Mapping[str, Any] | None, param: str) -> Structure | None:
    """Return what a `response_format` asks for; `param` is the name of the field. Raises ApiError.

    The schema may stand beside the type, as in `text.format` of OpenAI's responses and in Anthropic's requests.
    """
    match value:
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:  # llama.cpp lets it have a schema
            return _schema(value.get("schema") or {"type": "object"}, param)
        case {"type": "json_schema", "json_schema": dict(named)}:
            return _schema(named.get("schema") or {"type": "object"}, f"{param}.json_schema")
        case {"type": "json_schema", "schema": schema}:
            return _schema(schema, f"{param}.schema")
    raise _refused(param, f'{param}: must be of the type "text", "json_object" or "json_schema" with a schema.')


def _read_outputs(value: Mapping[str, Any]) -> Structure | None:
    name = "structured_outputs"
    given = {key: each for key, each in value.items() if each is not None and each is not False}
    found: list[Structure | None] = []
    for key, each in given.items():
        param = f"{name}.{key}"
        match key:
            case "json":
                found.append(_schema(each, param))
            case "json_object":
                found.append(_schema({"type": "object"}, param))
            case "regex" | "choice" | "grammar":
                found.append(_given(key, each, param))
            case "disable_fallback" | "disable_any_whitespace":
                pass  # nothing here falls back, and there is little space between tokens of JSON
            case _:
                raise _refused(param, f"{param} is not supported. Leave it out.", "unsupported_parameter")
    if len(found) > 1:
        raise _refused(name, f"{name}: may hold one constraint, and holds {', '.join(given)}.")
    return found[0] if found else None


def _given(kind: Literal["regex", "choice", "grammar"], value: Any, param: str) -> Structure | None:
    """Return a constraint; none where it is empty, the way of clients that cannot leave a field out."""
    if not value:
        return None
    if kind != "choice":
        if not isinstance(value, str):
            raise _refused(param, f"{param}: must be a string.")
    elif not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
        raise _refused(param, f"{param}: must be a list of strings that are not empty.")
    elif len(value) > MAX_CHOICES:
        raise _refused(param, f"{param}: may hold at most {MAX_CHOICES} strings.")
    return Structure(kind, value, param)


def _schema(value: Any, param: str) -> Structure:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise _refused(param, f"{param}: must be a JSON schema, and is no JSON.") from None
    if not isinstance(value, dict | bool):
        raise _refused(param, f"{param}: must be a JSON schema, which is an object.")
    return Structure("json", value, param)


def _refused(param: str, sentence: str, code: str = "invalid_value") -> ApiError:
    return ApiError(400, sentence, param=param, code=code)
