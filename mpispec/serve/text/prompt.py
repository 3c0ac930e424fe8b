"""From a conversation to the tokens of a prompt, and to what reads the answer. Any thread may use it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mpispec.models.errors import ModelError
from mpispec.models.template_traits import TemplateTraits
from mpispec.serve.text.answer_grammar import Frame
from mpispec.serve.text.call_formats import HERMES, format_of, thoughts_of
from mpispec.serve.text.call_reader import CallReader
from mpispec.serve.text.dialogue import ChatMessage, Dialogue
from mpispec.serve.text.quoting import END, Quoting
from mpispec.serve.text.template_form import in_parts, in_turns, in_words, with_calls, with_one_system, without_system
from mpispec.serve.text.thought_reader import ThoughtReader
from mpispec.serve.text.turn import PlainReader, Reader
from mpispec.serve.text.vocabulary import Vocabulary

_ENOUGH = 8
"""Characters for each token of the context, more than nearly all texts have: so many show that a prompt is too long."""
_MOST_OF_A_CUT = 64
"""Tokens that a text may have more of because it ends within a word."""


class Template(Protocol):
    """A model's chat template."""

    @property
    def source(self) -> str:
        """Its program, which tells of what family the model is."""

    @property
    def traits(self) -> TemplateTraits:
        """What it takes."""

    def render(self, messages: Any, /, add_generation_prompt: bool = True, **names: Any) -> str:
        """Return the text of a prompt; raises ModelError with a sentence where it refuses the messages."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is to be continued, and how the answer is to be read."""

    tokens: Sequence[int]
    new_reader: Callable[[], Reader] = PlainReader
    shown: frozenset[int] = frozenset()
    """Control tokens that the reader wants to see."""
    frame: Frame = field(default_factory=Frame)
    """What may stand around the answer's text, and what in its place."""
    echo: str | None = None
    """The prompt as text, where the answer is to repeat it."""
    num_unread: int = 0
    """About how many tokens follow those of a prompt that is far too long."""


def read(tokenize: Callable[[str], list[int]], text: str, context: int | None) -> tuple[list[int], int]:
    """Return the tokens of a prompt and how many more there are about: none, unless there are too many for a context.

    The largest body that the server takes is two seconds of work for a tokenizer, on cores that ranks may need.
    """
    if context is not None and len(text) > (enough := _ENOUGH * context):
        tokens = tokenize(text[:enough])
        if len(tokens) > context + _MOST_OF_A_CUT:
            return tokens, len(tokens) * len(text) // enough - len(tokens)
    return tokenize(text), 0


class Prompts:
    """Makes prompts in the way of one model."""

    def __init__(self, vocabulary: Vocabulary, template: Template, names: Mapping[str, Any] | None = None) -> None:
        """`names` are what the template may use in every prompt, unless a dialogue has others of the same name."""
        self._quoting = Quoting(vocabulary)
        self._template = template
        self._names = dict(names or {})
        self._form = format_of(template.source) if template.traits.takes_tools else None
        self._thoughts = thoughts_of(template.source)
        marks = (*(self._form or HERMES).marks, *(self._thoughts or ()))
        spelled = {mark: vocabulary.tokenize(mark, special=True, begin=False) for mark in marks}
        single = {mark: tokens[0] for mark, tokens in spelled.items() if len(tokens) == 1}
        self._shown = frozenset(single.values())
        self._controls = {mark: token for mark, token in single.items() if not vocabulary.piece(token)}

    def prompt(self, dialogue: Dialogue, context: int | None = None) -> Prompt:
        """Return the prompt for a dialogue; raises ModelError as the template does.

        Of one that is far too long for `context`, in tokens, only the beginning is read.
        """
        text = self.text(dialogue)

        def new_reader() -> Reader:
            return self._reader(dialogue, text)

        is_plain = isinstance(new_reader(), PlainReader)
        shown = frozenset() if is_plain else self._shown
        tokens, num_unread = read(self.tokenize, text, context)
        return Prompt(tokens, new_reader, shown, self._frame(dialogue, text), num_unread=num_unread)

    def text(self, dialogue: Dialogue) -> str:
        """Return the text of the prompt; raises ModelError as the template does."""
        messages: list[ChatMessage] = self._quoting.quote(list(dialogue.messages))
        tools: list[dict[str, Any]] = self._quoting.quote(list(dialogue.tools))
        if dialogue.continues:
            messages[-1]["content"] += END
        names = {**self._names, **self._quoting.quote({**dialogue.names})}
        if tools and self._form is not None:
            names["tools"] = tools
        begins_turn = dialogue.begins_turn and not dialogue.continues
        text = self._template.render(self._fitted(messages, tools), begins_turn, **names)
        if not dialogue.continues:
            return text
        text, end, _ = text.rpartition(END)
        if not end:
            raise ModelError("The model's chat template does not show the last message, so it cannot be continued.")
        return text

    def quote(self, words: str) -> str:
        """Return somebody's words as they are in a text that `text` returned."""
        quoted: str = self._quoting.quote(words)
        return quoted

    def tokenize(self, text: str, begin: bool = True) -> list[int]:
        """Return the tokens of a text that `text` returned, or with `begin` off of a later part of it."""
        return self._quoting.tokenize(text, begin)

    def _fitted(self, messages: Sequence[ChatMessage], tools: Sequence[dict[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """Return messages in the form that the template takes."""
        traits = self._template.traits
        form = self._form
        fitted = in_words(messages, tools) if form is None else with_calls(messages, traits, form)
        if not traits.takes_system:
            fitted = without_system(fitted)
        elif not traits.takes_later_system:
            fitted = with_one_system(fitted)
        if not traits.takes_same_role:
            fitted = in_turns(fitted)
        return [in_parts({**message}) for message in fitted] if traits.wants_parts else fitted

    def _reader(self, dialogue: Dialogue, text: str) -> Reader:
        """Return what reads the answer to a prompt."""
        reader: Reader = PlainReader()
        if dialogue.tools:
            several = (
                dialogue.calls_at_once
                and not dialogue.forced
                and (self._form is None or self._template.traits.takes_several_calls)
            )
            names = {tool["function"]["name"] for tool in dialogue.tools}
            reader = CallReader(self._form or HERMES, names, None if several else 1, dialogue.texts)
        if self._thoughts is not None and dialogue.splits_thought:
            reader = ThoughtReader(self._thoughts, text.rstrip().endswith(self._thoughts[0]), reader)
        return reader

    def _frame(self, dialogue: Dialogue, text: str) -> Frame:
        """Return what may stand around the text of the answer to a prompt, and what in its place."""
        marks = self._thoughts
        has_thought = marks is not None and not text.rstrip().endswith(marks[1])
        tools = [tool for tool in dialogue.tools if not dialogue.forced or tool["function"]["name"] in dialogue.forced]
        names = {tool["function"]["name"] for tool in tools}
        return Frame(
            thoughts=marks if has_thought else None,
            is_thinking=marks is not None and text.rstrip().endswith(marks[0]),
            form=self._form or HERMES,
            template=self._template.source,
            tools=tools,
            must_call=bool(dialogue.forced),
            texts={name: text for name, text in dialogue.texts.items() if name in names},
            controls=self._controls,
        )
