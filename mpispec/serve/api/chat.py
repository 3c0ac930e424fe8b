"""POST /v1/chat/completions: what is asked, in OpenAI's form with what llama.cpp and vLLM have added to it."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from mpispec.serve.api.fields import MOST_TOP, Content, Given, Whole, read_result
from mpispec.serve.api.request import ChoicesRequest
from mpispec.serve.api.tools import MAX_TOOLS, Tool, offered
from mpispec.serve.text.dialogue import SET_BY_FIELDS, ChatMessage, Dialogue
from mpispec.serve.text.scores import NumTop
from mpispec.serve.text.structure import Structure

THINKING = {"enabled": True, "adaptive": True, "disabled": False}
"""Values of `thinking.type`, and whether the model is to think."""
MAX_MESSAGES = 16384
"""Each takes tokens of the context, and time of the event loop before that is found out."""


class CalledFunction(BaseModel):
    """The function that a call names."""

    model_config = ConfigDict(strict=True)

    name: str = Field(min_length=1)
    arguments: str | dict[str, Any] | None = None


class CalledCustom(BaseModel):
    """The custom tool that a call names."""

    model_config = ConfigDict(strict=True)

    name: str = Field(min_length=1)
    input: str


class ToolCall(BaseModel):
    """A call in an assistant's message."""

    model_config = ConfigDict(strict=True)

    id: str | None = None
    type: Literal["function", "custom"] | None = None
    function: CalledFunction | None = None
    custom: CalledCustom | None = None

    @model_validator(mode="after")
    def _is_one(self) -> ToolCall:
        if (self.function is None) is (self.custom is None):
            raise ValueError("needs one of the fields 'function' and 'custom'")
        return self

    def plain(self) -> dict[str, Any]:
        """Return the call with its arguments as JSON text."""
        called = self.function or self.custom
        assert called is not None  # see `_is_one`
        given = called.arguments if isinstance(called, CalledFunction) else {"input": called.input}
        arguments = given if isinstance(given, str) else json.dumps(given or {}, ensure_ascii=False)
        function = {"name": called.name, "arguments": arguments}
        return {"id": self.id or "", "type": "function", "function": function}


class Message(BaseModel):
    """One turn of the conversation."""

    model_config = ConfigDict(strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content = Field(None, validate_default=True)
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = Field(None, validation_alias=AliasChoices("reasoning_content", "reasoning"))
    prefix: bool | None = None
    """Whether the answer goes on with this last message: Mistral's and DeepSeek's way to say it."""

    @field_validator("content", mode="before")
    @classmethod
    def _is_found(cls, value: Any, info: ValidationInfo) -> Any:
        return read_result(value) if info.data.get("role") == "tool" else value

    @field_validator("content")
    @classmethod
    def _has_words(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("role") not in ("assistant", "tool", None):
            raise ValueError("must be a string or a list of parts")
        return value

    def plain(self) -> ChatMessage:
        """Return what a chat template takes; `developer` is OpenAI's newer name for `system`."""
        role = "system" if self.role == "developer" else self.role
        message: ChatMessage = {"role": role, "content": self.content or ""}
        if self.name:
            message["name"] = self.name
        if self.tool_calls:
            message["tool_calls"] = [call.plain() for call in self.tool_calls]
        if self.tool_call_id:
            message["tool_call_id"] = self.tool_call_id
        if self.reasoning_content:
            message["reasoning_content"] = self.reasoning_content
        return message


class ChatRequest(ChoicesRequest):
    """Body of POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)
    max_completion_tokens: Given = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: Whole = Field(None, ge=0, le=MOST_TOP)
    tools: list[Tool] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    """Whether a turn may hold more than one call; if not, it ends with the first."""
    reasoning_format: Literal["auto", "deepseek", "none"] | None = None
    """With `none`, llama.cpp's name, what a model thinks stays in the content."""
    reasoning_effort: str | None = None
    """Handed to the template; `none` also turns thinking off in templates that know `enable_thinking`."""
    enable_thinking: bool | None = None
    """Handed to the template: where the documents of Qwen's own service have it."""
    thinking: dict[str, Any] | None = None
    """Anthropic's, DeepSeek's and GLM's way to say it: `{"type": "disabled"}`."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Further names for the template, such as `enable_thinking`."""
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    @field_validator("chat_template_kwargs")
    @classmethod
    def _is_free(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if taken := sorted(SET_BY_FIELDS & set(value or {})):
            raise ValueError(f"may not hold {taken[0]}")
        return value

    @model_validator(mode="after")
    def _continues_one(self) -> ChatRequest:
        if self.continues and (self.messages[-1].role != "assistant" or self.messages[-1].tool_calls):
            raise ValueError("only a last message of the assistant, without calls, can be continued")
        if self.continues and self.add_generation_prompt:
            raise ValueError("continue_final_message and add_generation_prompt exclude each other")
        return self

    @field_validator("top_logprobs")
    @classmethod
    def _is_scored(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value and not info.data.get("logprobs"):
            raise ValueError("needs logprobs: true")
        return value

    @property
    def num_top(self) -> NumTop:
        """See `GenerationRequest`."""
        return NumTop((self.top_logprobs or 0) if self.logprobs else -1, self.num_prompt_top)

    @property
    def limit(self) -> int | None:
        """The most tokens wanted; None for as many as fit."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def texts(self) -> dict[str, Structure | None]:
        """By name of a custom tool, what its text must look like, None where that is free. Raises ApiError."""
        return {tool.custom.name: tool.text for tool in self.tools or () if tool.custom is not None}

    @property
    def continues(self) -> bool:
        """Whether the answer goes on with the last message."""
        return bool(self.continue_final_message or self.messages[-1].prefix)

    def dialogue(self) -> Dialogue:
        """Return what is to be rendered. Raises ApiError for a choice of tools that cannot be made."""
        names: dict[str, Any] = {}
        if self.reasoning_effort is not None:
            names["reasoning_effort"] = self.reasoning_effort
            names |= {"enable_thinking": False} if self.reasoning_effort == "none" else {}
        kind = str((self.thinking or {}).get("type"))
        is_thinking = THINKING.get(kind, self.enable_thinking)
        names |= {} if is_thinking is None else {"enable_thinking": is_thinking}
        offer = offered([tool.plain() for tool in self.tools or ()], self.tool_choice)
        return Dialogue(
            [message.plain() for message in self.messages],
            tools=offer.tools,
            forced=offer.forced,
            texts={name: text for name, text in self.texts.items() if text is not None},
            calls_at_once=self.parallel_tool_calls is not False,
            splits_thought=self.reasoning_format != "none",
            names=names | (self.chat_template_kwargs or {}),
            begins_turn=self.add_generation_prompt is not False,
            continues=self.continues,
        )
