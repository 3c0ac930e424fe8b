"""Finds the calls of tools in the text of an answer while it is written. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from typing import Any

from mpispec.serve.text.call_formats import CallFormat
from mpispec.serve.text.detokenizer import count_undecided
from mpispec.serve.text.turn import Argued, Called, Piece, Said

_HEAD = re.compile(
    r'\{\s*(?:"(?:type|id)"\s*:\s*"[^"]*"\s*,\s*)*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,'
    r'\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
"""A call up to its arguments, as nearly all models write it; another order is read when the object is complete."""
_NAME = re.compile(r"[\w.:/-]{1,128}")
_MOST_HEAD = 256
"""Characters of a name with its separators."""


class JsonEnd:
    """Finds the end of a JSON object in portions."""

    def __init__(self, depth: int = 0) -> None:
        """`depth` is how many brackets are open already."""
        self._depth = depth
        self._in_string = self._is_escaped = False

    def find(self, text: str) -> int | None:
        """Take the next text; return the index after the bracket that closes the last open one."""
        for index, character in enumerate(text):
            if self._in_string:
                self._in_string = self._is_escaped or character != '"'
                self._is_escaped = character == "\\" and not self._is_escaped
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return index + 1
        return None


class CallReader:
    """A `Reader` of answers with text and calls. Text that looks like a call and is none stays text.

    A call begins once its name and the beginning of its arguments have been read; from there on its arguments are
    handed on as they come.
    """

    is_thinking = False

    def __init__(
        self, form: CallFormat, names: Collection[str], most_calls: int | None = None, texts: Collection[str] = ()
    ) -> None:
        """`names` are those of the tools; calls beyond `most_calls` are not wanted; `texts` take a text."""
        self._form = form
        self._names = names
        self._texts = texts
        self._most_calls = most_calls
        self._held = ""
        """Text that has come and is not used yet."""
        self._lead = ""
        """Marks that have been used; they are text if no call follows."""
        self._step: Callable[[], bool] = self._read_start if form.is_bare else self._read_text
        """Uses some of the held text; returns whether another step may use more."""
        self._end = JsonEnd()
        self._seen = 0
        """How much of the held text `_end` has seen."""
        self._num_calls = 0
        self._num_before = 0
        """Calls before the list that is being read."""
        self._in_list = self._is_named = self._is_marked = False
        self._pieces: list[Piece] = []

    @property
    def is_over(self) -> bool:
        """Whether as many calls as are wanted have been read."""
        return self._num_calls == self._most_calls

    def push(self, text: str) -> list[Piece]:
        """Take the next text; return the pieces that are certain now."""
        self._held += text
        while self._step():
            pass
        return self._take()

    def flush(self) -> list[Piece]:
        """Return what was held back; call it after the last text."""
        if self._step in (self._read_line_end, self._read_input):
            self._pieces.append(Argued(self._num_calls, json.dumps({"input": self._held}, ensure_ascii=False)))
            self._held = ""
        if self._step in (self._read_arguments, self._read_tail, self._read_after):
            self._held = ""  # the rest of a call, or the beginning of a mark after one
        text = self._lead + self._held
        self._lead = self._held = ""
        if text.strip() or (text and not self._num_calls):
            self._pieces.append(Said(text))
        return self._take()

    def _take(self) -> list[Piece]:
        pieces, self._pieces = self._pieces, []
        return pieces

    def _read_start(self) -> bool:
        """Where calls may stand without a mark, at the very beginning."""
        text = self._held.lstrip()
        if not text:
            return False
        if text[0] != "{":
            return self._go_to(self._read_text)
        self._use(len(self._held) - len(text))
        return self._go_to_object()

    def _read_text(self) -> bool:
        places = [(at, mark) for mark in self._form.begins if (at := self._held.find(mark)) >= 0]
        if places:
            at, mark = min(places)
            said = self._held[:at].rstrip()
            self._say(said)
            self._held = self._held[len(said) :]
            self._use(at - len(said) + len(mark))
            self._is_marked = True
            return self._go_to(self._read_payload)
        certain = self._held[: len(self._held) - count_undecided(self._held, self._form.begins)].rstrip()
        self._say(certain)
        self._held = self._held[len(certain) :]
        return False

    def _say(self, text: str) -> None:
        if text:
            self._pieces.append(Said(text))

    def _read_payload(self) -> bool:
        """After a mark."""
        self._use(len(self._held) - len(self._held.lstrip()))
        for mark in self._form.begins:
            if self._held.startswith(mark):
                self._use(len(mark))
                return True
        if any(mark.startswith(self._held) for mark in self._form.begins):
            return False
        if self._held[0] == "{":
            return self._go_to_object()
        if self._held[0] == "[":
            self._in_list, self._num_before = True, self._num_calls
            self._use(1)
            return self._go_to(self._read_item)
        return self._go_to(self._read_name) if self._form.separators else self._give_up()

    def _read_item(self) -> bool:
        """Within a list of calls."""
        self._use(len(self._held) - len(self._held.lstrip(" \t\r\n,")))
        if not self._held:
            return False
        if self._held[0] == "{":
            return self._go_to_object()
        if self._held[0] != "]" or self._num_calls == self._num_before:
            return self._give_up()
        self._in_list = False
        self._use(1)
        return self._go_to(self._read_after)

    def _read_object(self) -> bool:
        """A call of which nothing has been handed on yet."""
        head = _HEAD.match(self._held)
        if head is not None:
            name = _read_name(head[1])
            if name is None or not self._knows(name):
                return self._give_up()
            self._begin(name)
            self._held = self._held[head.end() :]
            self._is_named = False
            return self._go_to_arguments()
        end = self._end.find(self._held[self._seen :])
        if end is None:
            self._seen = len(self._held)
            return False
        found = _read_call(self._held[: self._seen + end])
        if found is None or not self._knows(found[0]):
            return self._give_up()
        self._held = self._held[self._seen + end :]
        self._begin(found[0])
        if found[0] in self._texts and found[1] == "{}":
            return self._go_to(self._read_line_end)
        self._pieces.append(Argued(self._num_calls, found[1]))
        return self._end_call()

    def _read_line_end(self) -> bool:
        """Before the text that a tool is called with."""
        if not self._held:
            return False
        self._held = self._held.removeprefix("\n")
        return self._go_to(self._read_input)

    def _read_input(self) -> bool:
        """The text that a tool is called with, which is complete when the answer is."""
        return False

    def _read_name(self) -> bool:
        """A name before the arguments."""
        head, brace, _ = self._held.partition("{")
        if not brace:
            return self._give_up() if len(head) > _MOST_HEAD else False
        parts = re.split("|".join(map(re.escape, self._form.separators)), head)
        # DeepSeek's older models write the type first, and the arguments in a fence.
        name = parts[1 if parts[0].strip() == "function" and len(parts) > 1 else 0].strip().partition("\n")[0]
        if len(parts) < 2 or not _NAME.fullmatch(name):
            return self._give_up()
        self._begin(name)
        self._held = self._held[len(head) :]
        self._is_named = True
        return self._go_to_arguments()

    def _read_arguments(self) -> bool:
        end = self._end.find(self._held)
        text = self._held if end is None else self._held[:end]
        if text:
            self._pieces.append(Argued(self._num_calls, text))
        self._held = self._held[len(text) :]
        if end is None:
            return False
        if self._is_named:
            return self._end_call()
        self._end = JsonEnd(depth=1)
        return self._go_to(self._read_tail)

    def _read_tail(self) -> bool:
        """What else is in the object of a call, such as an identifier."""
        end = self._end.find(self._held)
        self._held = "" if end is None else self._held[end:]
        return self._end_call() if end is not None else False

    def _read_after(self) -> bool:
        """Between calls, or a call and text."""
        self._lead = ""
        self._held = text = self._held.lstrip()
        for mark in self._form.skipped:
            if text.startswith(mark):
                self._held = text[len(mark) :]
                return True
        if not text or any(mark.startswith(text) for mark in self._form.skipped):
            return False
        if text[0] == "{" and self._form.is_bare:
            self._is_marked = False
            return self._go_to_object()
        return self._go_to(self._read_text)

    def _read_nothing(self) -> bool:
        """After the last call that is wanted."""
        self._held = ""
        return False

    def _use(self, length: int) -> None:
        """Take so much of the held text for marks."""
        self._lead += self._held[:length]
        self._held = self._held[length:]

    def _knows(self, name: str) -> bool:
        """Return whether this is a call: without a mark an answer in JSON looks the same."""
        return self._is_marked or name in self._names

    def _begin(self, name: str) -> None:
        self._lead = ""
        self._pieces.append(Called(self._num_calls, name))

    def _end_call(self) -> bool:
        self._num_calls += 1
        if self._num_calls == self._most_calls:
            return self._go_to(self._read_nothing)
        return self._go_to(self._read_item if self._in_list else self._read_after)

    def _give_up(self) -> bool:
        """Take what was read since the mark for text."""
        self._in_list = False
        self._say(self._lead)
        self._lead = ""
        return self._go_to(self._read_text)

    def _go_to_object(self) -> bool:
        self._end, self._seen = JsonEnd(), 0
        return self._go_to(self._read_object)

    def _go_to_arguments(self) -> bool:
        self._end = JsonEnd()
        return self._go_to(self._read_arguments)

    def _go_to(self, step: Callable[[], bool]) -> bool:
        self._step = step
        return True


def _read_name(text: str) -> str | None:
    try:
        return str(json.loads(text, strict=False))
    except ValueError:  # an escape that JSON does not know
        return None


def _read_call(text: str) -> tuple[str, str] | None:
    """Return name and arguments of a complete call, or None if it is none."""
    try:
        found: Any = json.loads(text, strict=False)
    except ValueError:
        return None
    name = found.get("name")
    arguments = found.get("arguments", found.get("parameters"))
    if not isinstance(name, str) or not isinstance(arguments, dict | str | None):
        return None
    written = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
    return name, written or "{}"
