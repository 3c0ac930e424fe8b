"""Tools that a request offers, and which of them the model may choose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mpispec.serve.errors import ApiError

MAX_TOOLS = 512
MAX_NAME = 128
_NO_PARAMETERS = {"type": "object", "properties": {}}


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


class Tool(BaseModel):
    """A tool of a chat request."""

    model_config = ConfigDict(strict=True)

    type: Literal["function"]
    function: Function


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
        case {"type": "function", "function": {"name": str(name)}} | {"type": "function", "name": str(name)}:
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
    named = [each.get("function", each) for each in given["tools"] if isinstance(each, dict)]
    names = {each.get("name") for each in named if isinstance(each, dict) and isinstance(each.get("name"), str)}
    allowed = [tool for tool in tools if tool["function"]["name"] in names]
    return forced(allowed) if given.get("mode") == "required" else Offer(allowed)


def _refused(sentence: str) -> ApiError:
    return ApiError(400, sentence, param="tool_choice", code="invalid_value")
