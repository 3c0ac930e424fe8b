"""The grammar of an answer: of its text, or of a call that it must be, with what the model's family puts around it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.concurrency import run_in_threadpool

from mpispec.grammars.compiler import Compiler
from mpispec.grammars.library import GrammarError, json_grammar, lark_grammar, regex_grammar
from mpispec.serve.errors import ApiError
from mpispec.serve.text.call_formats import HERMES, CallFormat
from mpispec.serve.text.structure import Structure
from mpispec.serve.text.vocabulary import Vocabulary
from mpispec.wire.fields import MOST_GRAMMAR_BYTES

_NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}
_GAP = r"/[ \n]{0,4}/"
"""Between thought and answer."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What may stand around an answer's text, and what may stand in its place."""

    thoughts: tuple[str, str] | None = None
    """Marks of the thought that the answer may begin with, None if it has none."""
    is_thinking: bool = False
    """Whether the prompt ends within that thought."""
    form: CallFormat = HERMES
    template: str = ""
    """Source of the chat template."""
    tools: Sequence[Mapping[str, Any]] = ()
    """Those that may be called, in OpenAI's form."""
    must_call: bool = False
    """Whether the answer must be a call of one of them."""
    texts: Mapping[str, Structure] = field(default_factory=dict)
    """By name of a tool that takes a text, what that text must look like; the answer ends with it."""
    controls: Mapping[str, int] = field(default_factory=dict)
    """Marks that are control tokens."""


class AnswerGrammars:
    """Finds out, before a request is submitted, whether its grammar can be compiled; any thread may use it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._compiler = Compiler(lambda: vocabulary)

    async def grammar(self, structure: Structure | None, frame: Frame) -> str:
        """Return the grammar of an answer, empty where it is free. Raises ApiError."""
        if structure is None and not frame.must_call and not frame.texts:
            return ""
        return await run_in_threadpool(self._checked, structure, frame)

    def _checked(self, structure: Structure | None, frame: Frame) -> str:
        param = "tools" if structure is None or frame.must_call else structure.param
        try:
            text = grammar_text(structure, frame)
            if len(text.encode()) > MOST_GRAMMAR_BYTES:
                raise GrammarError(f"it takes {len(text.encode())} bytes of grammar, more than {MOST_GRAMMAR_BYTES}")
            self._compiler.check(text)
        except GrammarError as error:
            sentence = f"{param} cannot be kept to: {error}. Send a simpler one."
            raise ApiError(400, sentence, param=param, code="invalid_value") from None
        return text


def grammar_text(structure: Structure | None, frame: Frame) -> str:
    """Return the grammar of an answer with a structure, a call, or tools that take a text. Raises GrammarError."""
    answer = None if structure is None or frame.must_call else _part(structure)
    if answer is not None and frame.thoughts is None and not frame.tools:
        return json.dumps({"grammars": [answer]})
    is_free = structure is None and not frame.must_call
    functions = [tool["function"] for tool in frame.tools]
    parts = {f"arguments_{number}": _arguments(each, frame, is_free) for number, each in enumerate(functions)}
    if answer is not None:
        parts["answer"] = answer
    bodies = _calls(frame) if answer is None else ["@answer", *_calls(frame)]
    rules = _words_or_calls(frame) if is_free else f"body: {' | '.join(bodies)}\n"
    lark = f"start: {_opening(frame)} body\n{rules}{_thought(frame)}"
    grammars = [{"name": "main", "lark_grammar": lark}, *({"name": name, **part} for name, part in parts.items())]
    return json.dumps({"grammars": grammars})


def _calls(frame: Frame, read: str = "") -> list[str]:
    """Return in Lark how each tool is called, from behind a mark that has been read on."""
    before, between, after = frame.form.written(frame.template)
    calls = []
    for number, tool in enumerate(frame.tools):
        label = tool["function"]["name"]
        name = json.dumps(label)[1:-1]
        if label in frame.texts:
            begin, end = f'{frame.form.opened(frame.template)}{{"name": "{name}"}}\n', ""
        else:
            begin, end = before + name + between, after
        calls.append(f"{_literal(begin.removeprefix(read), frame)} @arguments_{number} {_literal(end, frame)}")
    return calls


def _words_or_calls(frame: Frame) -> str:
    """Return the rules of an answer of words, calls, or both: what begins as a call is one."""
    spelled = [mark for mark in frame.form.begins if mark not in frame.controls]
    opened = frame.form.opened(frame.template)
    mark = next((mark for mark in frame.form.begins if opened.startswith(mark)), "")
    thoughtless = ""
    if frame.thoughts is not None and not frame.is_thinking and frame.thoughts[0] not in frame.controls:
        thoughtless = f" & ~/(?s:{_escaped(frame.thoughts[0])}.*)/"
    words = r"/(?s:\s*([^{\s].*)?)/" if frame.form.is_bare else "/(?s:.*)/"
    words += "".join(f" & ~/(?s:.*{_escaped(each)}.*)/" for each in spelled) + thoughtless
    rules = f"WORDS: {words}\ncalls: {_calls_in_a_row(frame)}\n"
    if mark in frame.controls:
        return f"body: WORDS calls?\n{rules}"
    if not mark:
        return f"body: WORDS | calls\n{rules}"
    said = f"SAID: /(?s:.*{_escaped(mark)})/{thoughtless}\nsaid[lazy]: SAID\n"
    return f"body: WORDS | said ({_calls_in_a_row(frame, read=mark)})\n{said}{rules}"


def _calls_in_a_row(frame: Frame, read: str = "") -> str:
    """Return the alternatives of one call or several, of which a text is the last."""
    calls = zip(frame.tools, _calls(frame, read), strict=True)
    return " | ".join(
        call if tool["function"]["name"] in frame.texts else f"{call} ({_GAP} calls)?" for tool, call in calls
    )


def _part(structure: Structure) -> dict[str, Any]:
    """Return a constraint as one of llguidance's grammars."""
    match structure.kind:
        case "json":
            return _json_part(structure.value)
        case "regex":
            return _only(regex_grammar(structure.value))
        case "choice":
            return {"lark_grammar": "start: " + " | ".join(map(json.dumps, structure.value))}
        case "grammar":
            return {"lark_grammar": lark_grammar(structure.value)}


def _json_part(schema: Any, is_lenient: bool = False) -> dict[str, Any]:
    try:
        text = json.dumps(schema)
    except RecursionError:
        raise GrammarError("the schema is nested too deeply") from None
    return _only(json_grammar(text, is_lenient))


def _only(text: str) -> dict[str, Any]:
    """Return the one grammar of a text of llguidance's, without its name."""
    (part,) = json.loads(text)["grammars"]
    return {key: value for key, value in part.items() if key in ("json_schema", "lark_grammar") and value is not None}


def _arguments(function: Mapping[str, Any], frame: Frame, is_free: bool) -> dict[str, Any]:
    """Return the grammar of what a tool is called with: a text, or an object whatever else the schema says.

    Where the tool is not `strict` what is not understood of its schema is let through, as all is with free calls.
    """
    if function["name"] in frame.texts:
        return _part(frame.texts[function["name"]])
    if is_free:
        return _json_part({"type": "object"})
    schema = function.get("parameters") or _NO_PARAMETERS
    return _json_part({"type": "object", **schema}, is_lenient=function.get("strict") is not True)


def _opening(frame: Frame) -> str:
    if frame.thoughts is None:
        return ""
    return "thought" if frame.is_thinking else f"({_literal(frame.thoughts[0], frame)} thought)?"


def _thought(frame: Frame) -> str:
    """Return the rule of a thought from behind its first mark on."""
    if frame.thoughts is None:
        return ""
    end = frame.thoughts[1]
    if end in frame.controls:
        return f"thought: /(?s:.*)/ <[{frame.controls[end]}]> {_GAP}\n"
    return f"thought: words {_GAP}\nwords[lazy]: /(?s:.*){_escaped(end)}/\n"


def _escaped(text: str) -> str:
    """Return some text in a regular expression of Lark."""
    return re.escape(text).replace("/", r"\/")


def _literal(text: str, frame: Frame) -> str:
    """Return some text in Lark, with control tokens as such."""
    return " ".join(_literals(text, frame))


def _literals(text: str, frame: Frame) -> Iterator[str]:
    marks = "|".join(re.escape(mark) for mark in sorted(frame.controls, key=len, reverse=True))
    for piece in re.split(f"({marks})", text) if marks else [text]:
        if piece in frame.controls:
            yield f"<[{frame.controls[piece]}]>"
        elif piece:
            yield json.dumps(piece)
