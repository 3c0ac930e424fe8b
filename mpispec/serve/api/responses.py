"""POST /v1/responses: what is asked, in OpenAI's form. Nothing is kept, so a request brings its whole conversation."""

from __future__ import annotations

import json
from typing import Annotated, Any, NoReturn

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema, field_validator

from mpispec.serve.api.chat import MAX_MESSAGES
from mpispec.serve.api.fields import MOST_TOP, Given, Whole, read_content, read_result
from mpispec.serve.api.request import GenerationRequest
from mpispec.serve.api.response_tools import ResponseTool, labelled, read_choice, read_tools
from mpispec.serve.api.tools import MAX_TOOLS, offered
from mpispec.serve.text.dialogue import ChatMessage, Dialogue
from mpispec.serve.text.scores import NumTop
from mpispec.serve.text.structure import Structure, read_format

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


LOGPROBS = "message.output_text.logprobs"
"""What `include` calls them."""
_RUN_ELSEWHERE = frozenset(
    {"web_search_call", "file_search_call", "code_interpreter_call", "image_generation_call", "mcp_list_tools"}
)
"""Items that say what OpenAI's servers did; what came of it is in the words after them."""


class _Conversation:
    """Puts the items of an input together to messages: an assistant's thought, words and calls are one."""

    def __init__(self) -> None:
        self.messages: list[ChatMessage] = []
        self._thought = ""

    def add(self, item: Any) -> None:
        """Take the next item. Raises ValueError with a sentence."""
        match item:
            case {"type": "function_call", "call_id": str(ident), "name": str(name), "arguments": str(arguments)}:
                self._call(ident, labelled(name, item.get("namespace")), arguments)
            case {"type": "custom_tool_call", "call_id": str(ident), "name": str(name), "input": str(text)}:
                arguments = json.dumps({"input": text}, ensure_ascii=False)
                self._call(ident, labelled(name, item.get("namespace")), arguments)
            case {"type": "function_call_output" | "custom_tool_call_output", "call_id": str(ident)}:
                text = _text_of(read_result(item.get("output")))
                self.messages.append({"role": "tool", "tool_call_id": ident, "content": text})
            case {"type": "reasoning"}:
                self._thought = "\n".join(_thoughts(item))
            case {"type": str(kind)} if kind in _RUN_ELSEWHERE:
                pass
            case {"role": str(role)} if role in _ROLES and item.get("type", "message") == "message":
                self._speak(_ROLES[role], _text_of(item.get("content")))
            case {"type": str(kind)}:
                raise ValueError(f"holds an item of type {kind!r} that is incomplete or not supported")
            case _:
                raise ValueError("must be text or a list of items such as messages")

    def _call(self, ident: str, name: str, arguments: str) -> None:
        function = {"name": name, "arguments": arguments}
        calls = self._assistant().setdefault("tool_calls", [])
        calls.append({"id": ident, "type": "function", "function": function})

    def _speak(self, role: str, text: str) -> None:
        if role == "assistant" and not self._is_open():
            self._assistant()["content"] = text
        elif role == "assistant":
            self.messages[-1]["content"] = "\n".join(filter(None, (self.messages[-1]["content"], text)))
        else:
            self.messages.append({"role": role, "content": text})

    def _is_open(self) -> bool:
        return bool(self.messages) and self.messages[-1]["role"] == "assistant" and not self._thought

    def _assistant(self) -> ChatMessage:
        """Return the assistant's message that the next item belongs to."""
        if not self._is_open():
            self.messages.append({"role": "assistant", "content": ""})
            if self._thought:
                self.messages[-1]["reasoning_content"] = self._thought
                self._thought = ""
        return self.messages[-1]


def _text_of(content: Any) -> str:
    text = read_content(content)
    if not isinstance(text, str | None):
        raise ValueError("holds content that is neither text nor a list of parts")
    return text or ""


def _thoughts(item: dict[str, Any]) -> list[str]:
    parts = item.get("content") or item.get("summary") or []
    return [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]


def _read_input(value: Any) -> list[ChatMessage]:
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise ValueError("must be text or a list of items such as messages")
    if len(value) > MAX_MESSAGES:
        raise ValueError(f"may hold at most {MAX_MESSAGES} items")
    conversation = _Conversation()
    for item in value:
        conversation.add(item)
    if not conversation.messages:
        raise ValueError("holds no message")
    return conversation.messages


class Reasoning(BaseModel):
    """How a model is to think."""

    model_config = ConfigDict(strict=True)

    effort: str | None = None
    summary: Any = None


_ITEM = {"type": "object", "properties": {"type": {"type": "string"}, "role": {"enum": sorted(_ROLES)}}}
_INPUT = {"anyOf": [{"type": "string"}, {"type": "array", "items": _ITEM, "minItems": 1, "maxItems": MAX_MESSAGES}]}


class ResponsesRequest(GenerationRequest):
    """Body of POST /v1/responses."""

    input: Annotated[list[Any], PlainValidator(_read_input), WithJsonSchema(_INPUT)]
    """Becomes a list of `ChatMessage`."""
    instructions: str | None = None
    max_output_tokens: Given = Field(None, ge=1)
    tools: Annotated[list[ResponseTool] | None, BeforeValidator(read_tools)] = Field(None, max_length=MAX_TOOLS)
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    include: list[str] | None = None
    top_logprobs: Whole = Field(None, ge=0, le=MOST_TOP)
    reasoning: Reasoning | None = None
    text: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    previous_response_id: Any = None
    conversation: Any = None
    prompt: Any = None
    background: Any = None

    @field_validator("previous_response_id", "conversation")
    @classmethod
    def _is_not_kept(cls, value: Any) -> Any:
        return None if value is None else _refuse("the server keeps no responses; send the whole conversation as input")

    @field_validator("prompt")
    @classmethod
    def _is_no_template(cls, value: Any) -> Any:
        return None if value is None else _refuse("the server keeps no prompts; send instructions and input")

    @field_validator("background")
    @classmethod
    def _is_waited_for(cls, value: Any) -> Any:
        return None if value in (None, False) else _refuse("the server keeps no responses; wait for the answer")

    def _structures(self) -> list[Structure | None]:
        return [*super()._structures(), read_format((self.text or {}).get("format"), "text.format")]

    @property
    def num_top(self) -> NumTop:
        """See `GenerationRequest`. Agents that ask for likely tokens alone mean their logarithms too."""
        is_asked = bool(self.top_logprobs) or LOGPROBS in (self.include or ())
        return NumTop((self.top_logprobs or 0) if is_asked else -1)

    @property
    def limit(self) -> int | None:
        """The most tokens wanted; None for as many as fit."""
        return self.max_tokens if self.max_output_tokens is None else self.max_output_tokens

    @property
    def prompt_field(self) -> str:
        """See `GenerationRequest`."""
        return "input"

    def dialogue(self) -> Dialogue:
        """Return what is to be rendered. Raises ApiError for a choice of tools that cannot be made."""
        messages: list[ChatMessage] = list(self.input)
        if self.instructions:
            messages.insert(0, {"role": "system", "content": self.instructions})
        names: dict[str, Any] = {}
        if self.reasoning is not None and self.reasoning.effort is not None:
            names["reasoning_effort"] = self.reasoning.effort
            names |= {"enable_thinking": False} if self.reasoning.effort == "none" else {}
        offer = offered([tool.plain() for tool in self.tools or ()], read_choice(self.tool_choice))
        return Dialogue(
            messages,
            tools=offer.tools,
            forced=offer.forced,
            texts={tool.label: text for tool in self.tools or () if (text := tool.text) is not None},
            calls_at_once=self.parallel_tool_calls is not False,
            names=names,
        )


def _refuse(reason: str) -> NoReturn:
    raise ValueError(reason)
