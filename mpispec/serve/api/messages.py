"""POST /v1/messages and /v1/messages/count_tokens: what is asked, in Anthropic's form."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema

from mpispec.serve.api.chat import MAX_MESSAGES, THINKING
from mpispec.serve.api.fields import Stops, read_result
from mpispec.serve.api.request import GenerationRequest
from mpispec.serve.api.tools import MAX_TOOLS, Function, Offer, forced
from mpispec.serve.errors import ApiError
from mpispec.serve.text.dialogue import ChatMessage, Dialogue
from mpispec.serve.text.structure import Structure, read_format


def _read_text(value: Any) -> Any:
    """Join blocks of text with newlines."""
    if not isinstance(value, list):
        return value
    texts = []
    for block in value:
        match block:
            case {"type": "text", "text": str(text)}:
                texts.append(text)
            case _:
                raise ValueError(
                    'may only hold blocks of the form {"type": "text", "text": "..."}; models here read text'
                )
    return "\n".join(texts)


_BILLING = "x-anthropic-billing-header:"


def _read_system(value: Any) -> Any:
    """Return the text of the system's words without what Claude Code tells Anthropic's accounts in them.

    It stands first and differs from session to session, so that none could use what another has in the cache.
    """
    if isinstance(value, list):
        value = [block for block in value if not (isinstance(block, dict) and _is_billing(block.get("text")))]
    return _read_text(value)


def _is_billing(text: Any) -> bool:
    return isinstance(text, str) and text.startswith(_BILLING)


Text = Annotated[str | None, BeforeValidator(_read_system), WithJsonSchema({})]


class _Blocks:
    """Makes messages of the blocks of one: results of tools stand by themselves, all else is one."""

    def __init__(self, role: str) -> None:
        self._role = role
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self.messages: list[ChatMessage] = []

    def add(self, block: Any) -> None:
        """Take the next block. Raises ValueError with a sentence."""
        match block:
            case {"type": "text", "text": str(text)}:
                self._texts.append(text)
            case {"type": "thinking", "thinking": str(thought)}:
                self._thoughts.append(thought)
            case {"type": "redacted_thinking" | "server_tool_use" | "web_search_tool_result" | "web_fetch_tool_result"}:
                pass  # readable only where it was written; what Anthropic's servers found is in the words after it
            case {"type": "tool_use", "id": str(ident), "name": str(name), "input": dict(given)}:
                function = {"name": name, "arguments": json.dumps(given, ensure_ascii=False)}
                self._calls.append({"id": ident, "type": "function", "function": function})
            case {"type": "tool_result", "tool_use_id": str(ident)}:
                self.flush()
                content = read_result(block.get("content") or "")
                if not isinstance(content, str):
                    raise ValueError("holds a tool_result whose content is neither text nor a list of blocks")
                self.messages.append({"role": "tool", "tool_call_id": ident, "content": content})
            case {"type": str(kind)}:
                raise ValueError(f"holds a block of type {kind!r} that is incomplete or not supported")
            case _:
                raise ValueError("must be text or a list of blocks")

    def flush(self) -> None:
        """End the message that the blocks so far make."""
        if not (self._texts or self._thoughts or self._calls):
            return
        message: ChatMessage = {"role": self._role, "content": "\n".join(self._texts)}
        if self._thoughts:
            message["reasoning_content"] = "\n".join(self._thoughts)
        if self._calls:
            message["tool_calls"] = self._calls
        self.messages.append(message)
        self._texts, self._thoughts, self._calls = [], [], []


def _read_message(value: Any) -> list[ChatMessage]:
    match value:
        case {"role": "user" | "assistant" | "system" as role, "content": str(content)}:
            return [{"role": role, "content": content}]
        case {"role": "user" | "assistant" | "system" as role, "content": list(content)}:
            blocks = _Blocks(role)
            for block in content:
                blocks.add(block)
            blocks.flush()
            return blocks.messages or [{"role": role, "content": ""}]
    raise ValueError("must have the role user or assistant, and content that is text or a list of blocks")


class Tool(BaseModel):
    """A function that a model may call."""

    model_config = ConfigDict(strict=True)

    name: str = Field(min_length=1, max_length=128)
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None

    def function(self) -> Function:
        """Return it in OpenAI's form."""
        return Function(name=self.name, description=self.description, parameters=self.input_schema, strict=self.strict)


def _only_functions(value: Any) -> Any:
    """Leave out the tools that Anthropic runs itself, which agents offer too."""
    return [tool for tool in value if _kind_of(tool) in (None, "custom")] if isinstance(value, list) else value


def _kind_of(tool: Any) -> Any:
    return tool.get("type") if isinstance(tool, dict) else None


_TEXT = {"type": "string"}
_BLOCKS = {"type": "array", "items": {"type": "object", "properties": {"type": _TEXT, "text": _TEXT}}}
_MESSAGE = {
    "type": "object",
    "properties": {"role": {"enum": ["user", "assistant"]}, "content": {"anyOf": [_TEXT, _BLOCKS]}},
    "required": ["role", "content"],
}


class MessagesRequest(GenerationRequest):
    """Body of POST /v1/messages."""

    messages: list[Annotated[Any, PlainValidator(_read_message), WithJsonSchema(_MESSAGE)]] = Field(
        min_length=1, max_length=MAX_MESSAGES, fail_fast=True
    )
    """Each becomes a list of `ChatMessage`."""
    system: Text = None
    stop: Stops = Field([], validation_alias=AliasChoices("stop_sequences", "stop"))
    tools: Annotated[list[Tool] | None, BeforeValidator(_only_functions)] = Field(None, max_length=MAX_TOOLS)
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None
    """Its `format` says what the answer must look like."""
    output_format: dict[str, Any] | None = None
    """An older place for that."""

    def _structures(self) -> list[Structure | None]:
        return [
            *super()._structures(),
            read_format((self.output_config or {}).get("format"), "output_config.format"),
            read_format(self.output_format, "output_format"),
        ]

    def dialogue(self) -> Dialogue:
        """Return what is to be rendered. Raises ApiError for a choice of tools that cannot be made."""
        messages: list[ChatMessage] = [message for each in self.messages for message in each]
        if self.system:
            messages.insert(0, {"role": "system", "content": self.system})
        last = messages[-1]
        is_thinking = THINKING.get(str((self.thinking or {}).get("type")))
        choice = self.tool_choice or {}
        offer = self._offered(choice)
        return Dialogue(
            messages,
            tools=offer.tools,
            forced=offer.forced,
            calls_at_once=choice.get("disable_parallel_tool_use") is not True,
            names={} if is_thinking is None else {"enable_thinking": is_thinking},
            continues=last["role"] == "assistant" and "tool_calls" not in last,
        )

    def _offered(self, choice: dict[str, Any]) -> Offer:
        tools = [tool.function().plain() for tool in self.tools or ()]
        match choice:
            case {"type": "none"}:
                return Offer([])
            case {"type": "any"}:
                return forced(tools)
            case {"type": "tool", "name": str(name)}:
                return forced(tools, name)
            case {"type": "auto"} | {"type": None}:
                return Offer(tools)
        if "type" not in choice:
            return Offer(tools)
        sentence = 'tool_choice: must have the type "auto", "any", "none", or "tool" with a name.'
        raise ApiError(400, sentence, param="tool_choice", code="invalid_value")
