"""Answers in OpenAI's form, as plain dictionaries. Pure."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Protocol

import msgspec

import mpispec
from mpispec.serve.api.tools import text_of
from mpispec.serve.errors import ApiError
from mpispec.serve.text.completion import Completed
from mpispec.serve.text.scores import of_chat, of_text
from mpispec.serve.text.turn import Argued, Call, Called, Piece, Said, Thought, Turn

PING = ": ping\n\n"
"""A comment, which every reader of events skips; without a word after the colon some do not."""
_REPORTED = ("strategy", "drafter", "timing", "speculation")
"""The parts of the engine's report that an answer repeats."""


def encode(value: Any) -> str:
    """Return JSON, as short as it may be."""
    return msgspec.json.encode(value).decode()


def event(value: dict[str, Any], name: str | None = None) -> str:
    """Return a server-sent event."""
    return (f"event: {name}\n" if name else "") + f"data: {encode(value)}\n\n"


class Mould:
    """Makes events that differ by one text from one of them."""

    _TEXT: ClassVar[str] = "\0text\0"

    def __init__(self, make: Callable[[str], str]) -> None:
        """`make` returns the event of a text."""
        self._before, _, self._after = make(self._TEXT).partition(encode(self._TEXT))

    def cast(self, text: str) -> str:
        """Return the event of another text."""
        return self._before + encode(text) + self._after


Answered = tuple[Turn, Completed]
"""What was read of an answer, and how it ended."""


class Answer(Protocol):
    """The form of the answers to a request. Events are text as it is sent."""

    def ping(self) -> str:
        """Return what says that the server is still there."""

    def whole(self, answers: Sequence[Answered]) -> dict[str, Any]:
        """Return all answers in one piece."""

    def opening(self, index: int) -> Iterator[str]:
        """Yield the events before the first piece of an answer."""

    def chunk(self, index: int, piece: Piece) -> Iterator[str]:
        """Yield the events of a piece of a streamed answer."""

    def ending(self, index: int, turn: Turn, done: Completed) -> Iterator[str]:
        """Yield the events that say why an answer ends."""

    def closing(self, answers: Sequence[Answered]) -> Iterator[str]:
        """Yield the events after the last answer."""

    def failure(self, error: ApiError) -> Iterator[str]:
        """Yield the events that end a stream which cannot go on."""


def count_usage(answers: Sequence[Answered], num_choices: int) -> dict[str, Any]:
    """Return the token counts of a request with `num_choices` answers to each prompt, which count it once."""
    prompt = sum(done.prompt_tokens for _, done in answers[::num_choices])
    answer = sum(len(done.tokens) for _, done in answers)
    counts: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "prompt_tokens_details": {"cached_tokens": sum(done.cached_tokens for _, done in answers[::num_choices])},
    }
    if thought := sum(done.thought_tokens for _, done in answers):
        counts["completion_tokens_details"] = {"reasoning_tokens": thought}
    return counts


def finish_reason(turn: Turn, done: Completed) -> str:
    """Return why an answer ended, in OpenAI's words."""
    if done.is_unfinished:
        return "length"
    return "tool_calls" if turn.calls and done.finish_reason == "stop" else done.finish_reason


def report_of(done: Completed) -> dict[str, Any]:
    """Return what the engine has to say of an answer."""
    report = {name: done.report[name] for name in _REPORTED if name in done.report}
    cut = "repeats" if done.is_cut else "timeout" if done.finish_reason == "timeout" else None
    return report | ({"cut": cut} if cut else {})


@dataclass(frozen=True)
class TextAnswer:
    """Shapes the answers of POST /v1/completions; the seed is sent so that the answer can be repeated."""

    model: str
    seed: int
    """Of the first choice; the i-th for a prompt has `seed` + i."""
    num_choices: int = 1
    """For each prompt."""
    includes_usage: bool = False
    """Whether a stream ends with the token counts."""
    ident: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))
    _moulds: dict[int, Mould] = field(default_factory=dict, repr=False, compare=False)
    """By choice, of the event that says some text."""

    PREFIX: ClassVar[str] = "cmpl-"
    WHOLE: ClassVar[str] = "text_completion"
    CHUNK: ClassVar[str] = "text_completion"

    def ping(self) -> str:
        """Return what says that the server is still there."""
        return PING

    def whole(self, answers: Sequence[Answered]) -> dict[str, Any]:
        """Return all answers in one piece."""
        choices = [
            {**self._whole_choice(index, turn), "finish_reason": finish_reason(turn, done), **self._of_prompt(done)}
            for index, (turn, done) in enumerate(answers)
        ]
        reports = [report_of(done) for _, done in answers]
        report = reports[0] if len(reports) == 1 else {"choices": reports}
        return self._frame(self.WHOLE, choices) | {
            "usage": count_usage(answers, self.num_choices),
            "mpispec": report,
            **self._of_prompts(answers),
        }

    def opening(self, index: int) -> Iterator[str]:
        """Yield nothing: a text has no event before the first of its choices."""
        yield from ()

    def chunk(self, index: int, piece: Piece) -> Iterator[str]:
        """Yield the events of a piece of a streamed answer."""
        if isinstance(piece, Said) and not piece.marks and not piece.scores:
            if index not in self._moulds:
                self._moulds[index] = Mould(lambda text: self._piece(index, Said(text)))
            yield self._moulds[index].cast(piece.text)
        else:
            yield self._piece(index, piece)

    def _piece(self, index: int, piece: Piece) -> str:
        tokens = [asdict(mark) for mark in piece.marks] if isinstance(piece, Said | Thought) else []
        further = {"mpispec": {"tokens": tokens}} if tokens else {}
        return self._chunk(self._chunk_choice(index, piece) | {"finish_reason": None}, **further)

    def ending(self, index: int, turn: Turn, done: Completed) -> Iterator[str]:
        """Yield the events that say why a choice ends."""
        choice = self._chunk_choice(index, None) | {"finish_reason": finish_reason(turn, done)}
        yield self._chunk(choice, mpispec=report_of(done))

    def closing(self, answers: Sequence[Answered]) -> Iterator[str]:
        """Yield the events after the last choice."""
        if self.includes_usage:
            yield event(self._frame(self.CHUNK, []) | {"usage": count_usage(answers, self.num_choices)})
        yield "data: [DONE]\n\n"

    def failure(self, error: ApiError) -> Iterator[str]:
        """Yield the events that end a stream which cannot go on."""
        yield event(error.body())

    def _of_prompt(self, done: Completed) -> dict[str, Any]:
        """Return what a choice says of its prompt."""
        return {} if done.prompt_scores is None else {"prompt_logprobs": done.prompt_scores}

    def _of_prompts(self, answers: Sequence[Answered]) -> dict[str, Any]:
        """Return what all choices together say of the prompt, which in a chat is one."""
        return {}

    def _whole_choice(self, index: int, turn: Turn) -> dict[str, Any]:
        return {"index": index, "text": turn.text, "logprobs": of_text(turn.scores)}

    def _chunk_choice(self, index: int, piece: Piece | None) -> dict[str, Any]:
        said = piece if isinstance(piece, Said) else Said("")
        return {"index": index, "text": said.text, "logprobs": of_text(said.scores)}

    def _chunk(self, choice: dict[str, Any], **further: Any) -> str:
        return event(self._frame(self.CHUNK, [choice]) | further)

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.PREFIX + self.ident,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": f"mpispec-{mpispec.__version__}",
            "seed": self.seed,
            "choices": choices,
        }


@dataclass(frozen=True)
class ChatAnswer(TextAnswer):
    """Shapes the answers of POST /v1/chat/completions."""

    customs: frozenset[str] = frozenset()
    """Names of the tools that take a text, which is known when a call of them is complete."""
    _texts: set[tuple[int, int]] = field(default_factory=set, repr=False, compare=False)
    """Choice and number of the calls of those."""

    PREFIX: ClassVar[str] = "chatcmpl-"
    WHOLE: ClassVar[str] = "chat.completion"
    CHUNK: ClassVar[str] = "chat.completion.chunk"

    def opening(self, index: int) -> Iterator[str]:
        """Yield the chunk that names the role."""
        choice = {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None}
        yield self._chunk(choice | {"finish_reason": None})

    def chunk(self, index: int, piece: Piece) -> Iterator[str]:
        """See `TextAnswer`; texts that tools are called with are left to the end."""
        match piece:
            case Called(number, name) if name in self.customs:
                self._texts.add((index, number))
            case Argued(number) if (index, number) in self._texts:
                return
        yield from super().chunk(index, piece)

    def ending(self, index: int, turn: Turn, done: Completed) -> Iterator[str]:
        """Yield the chunks of texts that tools are called with, and the one that says why the choice ends."""
        for number, call in enumerate(turn.calls):
            if call.name in self.customs:
                delta = {"tool_calls": [{"index": number, "custom": {"input": text_of(call.arguments)}}]}
                yield self._chunk({"index": index, "delta": delta, "logprobs": None, "finish_reason": None})
        yield from super().ending(index, turn, done)

    def _of_prompt(self, done: Completed) -> dict[str, Any]:
        return {}

    def _of_prompts(self, answers: Sequence[Answered]) -> dict[str, Any]:
        return super()._of_prompt(answers[0][1])

    def _whole_choice(self, index: int, turn: Turn) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": turn.text, "refusal": None}
        if turn.thought:
            message["reasoning_content"] = turn.thought
        if turn.calls:
            message["content"] = turn.text or None
            message["tool_calls"] = [self._call(index, number, call) for number, call in enumerate(turn.calls)]
        return {"index": index, "message": message, "logprobs": of_chat(turn.scores)}

    def _chunk_choice(self, index: int, piece: Piece | None) -> dict[str, Any]:
        scores = piece.scores if isinstance(piece, Said) else ()
        return {"index": index, "delta": self._delta(index, piece), "logprobs": of_chat(scores)}

    def _delta(self, index: int, piece: Piece | None) -> dict[str, Any]:
        match piece:
            case Said(text):
                return {"content": text}
            case Thought(text):
                return {"reasoning_content": text}
            case Called(number, name):
                return {"tool_calls": [{"index": number, **self._call(index, number, Call(name))}]}
            case Argued(number, text):
                return {"tool_calls": [{"index": number, "function": {"arguments": text}}]}
            case None:
                return {}

    def _call(self, index: int, number: int, call: Call) -> dict[str, Any]:
        ident = f"call_{self.ident}_{index}_{number}"
        if call.name in self.customs:
            return {"id": ident, "type": "custom", "custom": {"name": call.name, "input": text_of(call.arguments)}}
        return {"id": ident, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
