"""How model families write calls of tools and their thoughts: one row a family. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CallFormat:
    """Where calls stand in an answer. After a beginning comes one of

    - `{"name": ..., "arguments": {...}}`, where `parameters` is as good as `arguments`,
    - a list of those,
    - with `separators`, the name, one of them, and the arguments,
    - `{"name": ...}` alone, where the tool takes a text: that follows, to the end of the answer.
    """

    hints: tuple[str, ...]
    """Of these one is in the source of the family's chat template."""
    begins: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    """Marks that may follow a call and mean nothing more."""
    separators: tuple[str, ...] = ()
    is_bare: bool = False
    """Whether an answer that begins with such an object is a call without any mark."""
    ident_length: int = 0
    """Letters and digits of a call's identifier, where the template refuses any other."""
    spellings: tuple[tuple[str, str, str, str], ...] = ()
    """How a call is written that is forced: something in the templates that show it so, what stands before the name,
    between name and arguments, and after these."""

    @property
    def marks(self) -> tuple[str, ...]:
        """Every text that has a meaning; some are control tokens."""
        return (*self.begins, *self.skipped, *self.separators)

    def written(self, source: str) -> tuple[str, str, str]:
        """Return what stands before the name of a call, between name and arguments, and after these."""
        hints = (spelling for spelling in self.spellings if spelling[0] in source)
        _, before, between, after = next(hints)
        return before, between, after

    def opened(self, source: str) -> str:
        """Return what stands before the object of a call: marks, and the line's end that may follow them."""
        marks = re.match(f"(?:{'|'.join(map(re.escape, self.begins))})*\n?", self.written(source)[0])
        return marks[0] if marks else ""


_IN_OBJECT = '", "arguments": '
HERMES = CallFormat(
    ("<tool_call>",),
    ("<tool_call>",),
    ("</tool_call>",),
    spellings=(("", '<tool_call>\n{"name": "', _IN_OBJECT, "}\n</tool_call>"),),
)
"""Qwen, Hermes, SmolLM, Granite 4, and whatever model is told to write so."""
_DEEPSEEK = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>"
_DEEPSEEK_END = "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
FORMATS = (
    CallFormat(  # Mistral
        ("[TOOL_CALLS]",),
        ("[TOOL_CALLS]",),
        ("</s>",),
        ("[CALL_ID]", "[ARGS]"),
        ident_length=9,
        spellings=(("[ARGS]", "[TOOL_CALLS]", "[ARGS]", ""), ("", '[TOOL_CALLS][{"name": "', _IN_OBJECT, "}]")),
    ),
    CallFormat(  # DeepSeek
        ("<｜tool▁call▁begin｜>",),
        ("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"),
        ("```", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"),
        ("<｜tool▁sep｜>",),
        spellings=(
            ("```json", f"{_DEEPSEEK}function<｜tool▁sep｜>", "\n```json\n", f"\n```{_DEEPSEEK_END}"),
            ("", _DEEPSEEK, "<｜tool▁sep｜>", _DEEPSEEK_END),
        ),
    ),
    CallFormat(  # Granite 3, Phi-4-mini
        ("<|tool_call|>",),
        ("<|tool_call|>",),
        ("<|/tool_call|>",),
        spellings=(
            ("<|/tool_call|>", '<|tool_call|>[{"name": "', _IN_OBJECT, "}]<|/tool_call|>"),
            ("", '<|tool_call|>[{"name": "', _IN_OBJECT, "}]"),
        ),
    ),
    HERMES,
    CallFormat(  # Llama 3
        ("<|python_tag|>", '"parameters": '),
        ("<|python_tag|>",),
        (";",),
        is_bare=True,
        spellings=(("", '{"name": "', '", "parameters": ', "}"),),
    ),
)

THOUGHTS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>"))
"""Beginning and end of what a reasoning model writes before it answers."""


def format_of(source: str) -> CallFormat | None:
    """Return how the model of a chat template writes calls; None if nothing in the template says so."""
    return next((each for each in FORMATS if any(hint in source for hint in each.hints)), None)


def thoughts_of(source: str) -> tuple[str, str] | None:
    """Return the marks of thought of a chat template's model; None if it has none."""
    return next((marks for marks in THOUGHTS if marks[1] in source), None)
