"""Tools that a request offers, and which of them the model may choose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mpispec.serve.errors import ApiError

MAX_TOOLS = 512
_NO_PARAMETERS = {"type": "object", "properties": {}}


class Function(BaseModel):
    """A function that a model may call. `strict` is let through: arguments are what the model writes."""

    model_config = ConfigDict(strict=True)

    name: str = Field(min_length=1, max_length=128)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """A JSON schema."""
    strict: bool | None = None

    def plain(self) -> dict[str, Any]:
        """Return what a chat template takes; many loop over the parameters, so there always are some."""
        described = {} if self.description is None else {"description": self.description}
        parameters = self.parameters or _NO_PARAMETERS
        return {"type": "function", "function": {"name": self.name, **described, "parameters": parameters}}


class Tool(BaseModel):
    """A tool of a chat request."""

    model_config = ConfigDict(strict=True)

    type: Literal["function"]
    function: Function


def offered(tools: Sequence[dict[str, Any]], choice: Any) -> list[dict[str, Any]]:
    """Return the tools that the model may choose from, by `tool_choice` in OpenAI's form. Raises ApiError."""
    match choice:
        case None | "auto":
            return list(tools)
        case "none":
            return []
        case {"type": "allowed_tools"}:
            return _allowed(tools, choice)
        case "required" | {"type": "function" | "custom"}:
            raise unforced()
    sentence = 'tool_choice: must be "none", "auto" or an object that allows some of the tools.'
    raise ApiError(400, sentence, param="tool_choice", code="invalid_value")


def unforced() -> ApiError:
    """Return the answer to who wants a call by force: a model can be told to call a tool, not be made to."""
    return ApiError(
        400,
        "tool_choice: a call can only be forced with structured output, which this server does not have; send "
        '"auto" and say in the prompt which tool to call.',
        param="tool_choice",
        code="unsupported_parameter",
    )


def _allowed(tools: Sequence[dict[str, Any]], choice: dict[str, Any]) -> list[dict[str, Any]]:
    given = choice.get("allowed_tools", choice)  # chats wrap it, responses do not
    if not isinstance(given, dict) or not isinstance(given.get("tools"), list):
        raise ApiError(400, "tool_choice: allowed_tools lists no tools.", param="tool_choice", code="invalid_value")
    if given.get("mode", "auto") != "auto":
        raise unforced()
    named = [each.get("function", each) for each in given["tools"] if isinstance(each, dict)]
    names = {each.get("name") for each in named if isinstance(each, dict) and isinstance(each.get("name"), str)}
    return [tool for tool in tools if tool["function"]["name"] in names]
