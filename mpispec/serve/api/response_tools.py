"""Tools of POST /v1/responses: functions, alone or in a namespace, and custom tools, which take a text. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from mpispec.serve.api.tools import Function, plain_custom, read_grammar
from mpispec.serve.text.structure import Structure


class ResponseTool(Function):
    """A tool that a model may call. Agents put the tools of an MCP server into a namespace."""

    type: Literal["function", "custom"] = "function"
    namespace: str | None = None
    format: dict[str, Any] | None = None
    """Of a custom tool's text: `{"type": "grammar", "syntax": ..., "definition": ...}`, or any text."""

    @property
    def label(self) -> str:
        """The name that the model knows it by."""
        return labelled(self.name, self.namespace)

    @property
    def text(self) -> Structure | None:
        """What the text that it is called with must look like, None where it is free or no text. Raises ApiError."""
        return read_grammar(self.format) if self.type == "custom" else None

    def plain(self) -> dict[str, Any]:
        """Return what a chat template takes. Raises ApiError."""
        if self.type == "custom":
            return plain_custom(self.label, self.description, self.text)
        tool = super().plain()
        tool["function"]["name"] = self.label
        return tool

    def given(self) -> dict[str, Any]:
        """Return it as a response repeats it."""
        if self.type == "custom":
            return self.model_dump(include={"type", "name", "description", "format"}, exclude_none=True)
        return self.model_dump(include={"type", "name", "description", "parameters", "strict"})


def labelled(name: str, namespace: Any) -> str:
    """Return the name that a model knows a tool by: `mcp__weather__get` for `get` of `mcp__weather`."""
    return f"{namespace.removesuffix('__')}__{name}" if isinstance(namespace, str) else name


def read_tools(value: Any) -> Any:
    """Return the tools that the client runs, one after the other; those that OpenAI runs itself are left out."""
    if not isinstance(value, list):
        return value
    found = []
    for tool in value:
        match tool:
            case {"type": "namespace", "name": str(name), "tools": list(tools)}:
                inner = [{**each, "namespace": name} for each in tools if isinstance(each, dict)]
                found += [each for each in inner if each.get("type") in ("function", "custom")]
            case {"type": "function" | "custom"}:
                found.append(tool)
            case dict():
                pass
            case _:
                found.append(tool)  # refused by its type
    return found


def repeated(tools: Sequence[ResponseTool]) -> list[dict[str, Any]]:
    """Return tools as a response repeats them, each namespace in one piece."""
    found: list[dict[str, Any]] = []
    spaces: dict[str, list[dict[str, Any]]] = {}
    for tool in tools:
        if tool.namespace is None:
            found.append(tool.given())
            continue
        if tool.namespace not in spaces:
            spaces[tool.namespace] = []
            found.append({"type": "namespace", "name": tool.namespace, "tools": spaces[tool.namespace]})
        spaces[tool.namespace].append(tool.given())
    return found


def read_choice(choice: Any) -> Any:
    """Return a `tool_choice` with tools named as the model knows them."""
    match choice:
        case {"type": "function" | "custom", "name": str(name)}:
            return {"type": "function", "name": labelled(name, choice.get("namespace"))}
        case {"type": "allowed_tools", "tools": list(tools)}:
            named = [
                {**tool, "name": labelled(tool["name"], tool.get("namespace"))}
                if isinstance(tool, dict) and isinstance(tool.get("name"), str)
                else tool
                for tool in tools
            ]
            return {**choice, "tools": named}
    return choice
