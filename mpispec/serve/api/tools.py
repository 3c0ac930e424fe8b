"""Tools that a request offers, and which of them the model may choose."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from mpispec.serve.errors import ApiError
from mpispec.serve.text.structure import Structure

MAX_TOOLS = 512
MAX_NAME = 128
_NO_PARAMETERS = {"type": "object", "properties": {}}
_TEXT = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
"""What a model is asked for where a tool takes a text."""


class Function(BaseModel):
    """A function that a model may call. `strict` counts where a call is forced."""

    model_config = ConfigDict(strict=True)

    name: str = Field(min_length=1, max_length=MAX_NAME)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """A JSON schema."""
    strict: bool | None = None

    def plain(self) -> dict[str, Any]:
        """Return what a chat template takes; many loop over the parameters, so there always are some."""
        further = {} if self.description is None else {"description": self.description}
        parameters = self.parameters or _NO_PARAMETERS
        strict = {"strict": True} if self.strict else {}
        return {"type": "function", "function": {"name": self.name, **further, "parameters": parameters, **strict}}


class Custom(BaseModel):
    """A tool that takes a text."""

    model_config = ConfigDict(strict=True)

    name: str = Field(min_length=1, max_length=MAX_NAME)
    description: str | None = None
    format: dict[str, Any] | None = None
    """`{"type": "grammar", "grammar": {"syntax": ..., "definition": ...}}`, or any text."""


class Tool(BaseModel):
    """A tool of a chat request."""

    model_config = ConfigDict(strict=True)

    type: Literal["function", "custom"]
    function: Function | None = Field(None, validate_default=True)
    custom: Custom | None = Field(None, validate_default=True)

    @field_validator("function", "custom")
    @classmethod
    def _is_described(cls, value: Function | Custom | None, info: ValidationInfo) -> Function | Custom | None:
        if (value is not None) is not (info.data.get("type") == info.field_name) and "type" in info.data:
            raise ValueError(f"must be given where the type is {info.field_name!r}, and nowhere else")
        return value

    @property
    def text(self) -> Structure | None:
        """What the text that it is called with must look like, None where it is free or no text. Raises ApiError."""
        return None if self.custom is None else read_grammar(self.custom.format)

    def plain(self) -> dict[str, Any]:
        """Return what a chat template takes. Raises ApiError."""
        if self.custom is not None:
            return plain_custom(self.custom.name, self.custom.description, self.text)
        assert self.function is not None  # see `_is_described`
        return self.function.plain()


def plain_custom(name: str, description: str | None, text: Structure | None) -> dict[str, Any]:
    """Return a tool that takes a text as a function of one argument, which chat templates take."""
    said = [] if description is None else [description]
    if text is not None:
        call = json.dumps({"name": name}, ensure_ascii=False)
        said.append(f"Its input keeps to this grammar:\n{text.value}")
        said.append(f"To call it, write {call} without arguments and, from the next line on, the input as it is.")
    further = {"description": "\n".join(said)} if said else {}
    return {"type": "function", "function": {"name": name, **further, "parameters": _TEXT}}


def text_of(arguments: str) -> str:
    """Return the text that a custom tool is called with; what is no object with it stands for itself."""
    try:
        return str(json.loads(arguments, strict=False)["input"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return arguments


def read_grammar(value: Mapping[str, Any] | None) -> Structure | None:
    """Return what a custom tool's `format` asks of its text, None for any text. Raises ApiError."""
    match value:
        case None | {"type": "text"}:
            return None
        case {"type": "grammar"}:
            given = value.get("grammar", value)  # chats wrap it, responses do not
            match given:
                case {"syntax": "lark", "definition": str(definition)}:
                    return Structure("grammar", definition, "tools")
                case {"syntax": "regex", "definition": str(definition)}:
                    return Structure("regex", definition, "tools")
    sentence = 'tools: the format of a custom tool must be of the type "text", or "grammar" with a definition in the '
    raise ApiError(400, sentence + 'syntax "lark" or "regex".', param="tools", code="invalid_value")


@dataclass(frozen=True, slots=True)
class Offer:
    """What the model may call."""

    tools: list[dict[str, Any]]
    """Those that it is shown, in OpenAI's form."""
    forced: tuple[str, ...] = ()
    """Names of which the answer must call one; none where it need not call."""


def offered(tools: Sequence[dict[str, Any]], choice: Any) -> Offer:
    """Return what the model may call, by `tool_choice` in OpenAI's form. Raises ApiError."""
    match choice:
        case None | "auto":
            return Offer(list(tools))
        case "none":
            return Offer([])
        case "required":
            return forced(tools)
        case (
            {"type": "function", "function": {"name": str(name)}}
            | {"type": "custom", "custom": {"name": str(name)}}
            | {"type": "function", "name": str(name)}
        ):
            return forced(tools, name)
        case {"type": "allowed_tools"}:
            return _allowed(tools, choice)
    sentence = 'tool_choice: must be "none", "auto", "required", or an object that names a function or allows some.'
    raise _refused(sentence)


def forced(tools: Sequence[dict[str, Any]], name: str | None = None) -> Offer:
    """Return the offer where a tool must be called, the one of a name or any. Raises ApiError."""
    names = tuple(tool["function"]["name"] for tool in tools)
    if name is not None and name not in names:
        raise _refused(f"tool_choice: no tool has the name {name!r}; offer it as one of the tools.")
    if not names:
        raise _refused("tool_choice: a call is demanded and no tool is offered; send tools.")
    return Offer(list(tools), names if name is None else (name,))


def _allowed(tools: Sequence[dict[str, Any]], choice: dict[str, Any]) -> Offer:
    given = choice.get("allowed_tools", choice)  # chats wrap it, responses do not
    if not isinstance(given, dict) or not isinstance(given.get("tools"), list):
        raise _refused("tool_choice: allowed_tools lists no tools.")
    if given.get("mode", "auto") not in ("auto", "required"):
        raise _refused('tool_choice: the mode of allowed_tools must be "auto" or "required".')
    named = [each.get("function", each.get("custom", each)) for each in given["tools"] if isinstance(each, dict)]
    names = {each.get("name") for each in named if isinstance(each, dict) and isinstance(each.get("name"), str)}
    allowed = [tool for tool in tools if tool["function"]["name"] in names]
    return forced(allowed) if given.get("mode") == "required" else Offer(allowed)


def _refused(sentence: str) -> ApiError:
    return ApiError(400, sentence, param="tool_choice", code="invalid_value")
