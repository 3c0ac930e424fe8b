"""What a prompt is made of, whatever form a client sent it in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from mpispec.serve.text.structure import Structure

SET_BY_FIELDS = frozenset({"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"})
"""Names of a chat template that have a source of their own."""


class ChatMessage(TypedDict, total=False):
    """One turn of a conversation, with the names that chat templates know."""

    role: str
    """system, user, assistant or tool."""
    content: str
    name: str
    reasoning_content: str
    """What an assistant thought before it spoke."""
    tool_calls: list[dict[str, Any]]
    """OpenAI's form, `arguments` as JSON text."""
    tool_call_id: str
    """Of a tool's message: which call it answers."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation and how it is to go on."""

    messages: Sequence[ChatMessage]
    tools: Sequence[dict[str, Any]] = ()
    """What the assistant may call, in OpenAI's form."""
    forced: Sequence[str] = ()
    """Names of tools of which the answer must call one; none where it need not call."""
    texts: Mapping[str, Structure] = field(default_factory=dict)
    """By name of a tool that takes a text, what that text must look like."""
    calls_at_once: bool = True
    """Whether a turn may hold more than one call."""
    splits_thought: bool = True
    """Whether what a reasoning model thinks is told from what it says."""
    names: Mapping[str, Any] = field(default_factory=dict)
    """Further names that the chat template may use."""
    begins_turn: bool = True
    """Whether the prompt ends with the beginning of the assistant's turn."""
    continues: bool = False
    """Whether the answer goes on with the last message instead."""
