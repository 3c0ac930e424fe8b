"""From a conversation to the tokens of a prompt. Any thread may use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from mpispec.models.errors import ModelError
from mpispec.models.template_traits import TemplateTraits
from mpispec.serve.dialogue import ChatMessage, Dialogue

_END = "\ufdd1"
"""Marks the end of a message that is to be continued. A noncharacter: Unicode keeps it from interchanged text."""
_NO_TEXT = str.maketrans(dict.fromkeys((_END,), "\ufffd"))


class Vocabulary(Protocol):
    """Text to tokens and back. Every method may be called from any thread."""

    @property
    def size(self) -> int:
        """Number of tokens; ids are 0 <= id < size."""

    @property
    def eog(self) -> frozenset[int]:
        """Tokens that end a generation."""

    def tokenize(self, text: str, special: bool, begin: bool = True) -> list[int]:
        """Return the token ids of `text`; with `special`, control tokens spelled in it become those tokens.

        With `begin`, the token that begins a text comes first if the model wants it.
        """

    def piece(self, token: int, special: bool = False) -> bytes:
        """Return the bytes of a token, which may be part of a character; control tokens are empty unless `special`."""


class Template(Protocol):
    """A model's chat template."""

    @property
    def traits(self) -> TemplateTraits:
        """What it takes."""

    def render(self, messages: Any, add_generation_prompt: bool = True, **names: Any) -> str:
        """Return the text of a prompt; raises ModelError with a sentence where it refuses the messages."""


class Prompts:
    """Makes prompts in the way of one model."""

    def __init__(self, vocabulary: Vocabulary, template: Template, names: Mapping[str, Any] | None = None) -> None:
        """`names` are what the template may use in every prompt, unless a dialogue has others of the same name."""
        self._vocabulary = vocabulary
        self._template = template
        self._names = dict(names or {})

    def tokens(self, dialogue: Dialogue) -> list[int]:
        """Return the prompt for a dialogue; raises ModelError as the template does."""
        return self.tokenize(self.text(dialogue))

    def text(self, dialogue: Dialogue) -> str:
        """Return the text of the prompt; raises ModelError as the template does."""
        messages = [self._adapted(message) for message in dialogue.messages]
        names = {**self._names, **dialogue.names}
        if not dialogue.continues:
            return self._template.render(messages, dialogue.begins_turn, **names)
        messages[-1] = self._adapted({**dialogue.messages[-1], "content": dialogue.messages[-1]["content"]}, _END)
        text, end, _ = self._template.render(messages, False, **names).rpartition(_END)
        if not end:
            raise ModelError("The model's chat template does not show the last message, so it cannot be continued.")
        return text

    def tokenize(self, text: str, begin: bool = True) -> list[int]:
        """Return the tokens of a text that `text` returned, or with `begin` off of a later part of it."""
        return self._vocabulary.tokenize(text, special=True, begin=begin)

    def _adapted(self, message: ChatMessage, end: str = "") -> dict[str, Any]:
        """Return a message in the form that the template takes, `end` after its content."""
        content = message.get("content", "").translate(_NO_TEXT) + end
        parts = [{"type": "text", "text": content}] if self._template.traits.wants_parts else content
        return {**message, "content": parts}
