"""Answers in OpenAI's form, as plain dictionaries. Pure."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import mpispec
from mpispec.serve.completion import Completed
from mpispec.serve.errors import ApiError

_REPORTED = ("strategy", "drafter", "timing", "speculation")
"""The parts of the engine's report that an answer repeats."""


def encode(value: Any) -> str:
    """Return JSON, as short as it may be."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def event(value: dict[str, Any], name: str | None = None) -> str:
    """Return a server-sent event."""
    return (f"event: {name}\n" if name else "") + f"data: {encode(value)}\n\n"


def count_usage(answers: Sequence[Completed], num_choices: int) -> dict[str, int]:
    """Return the token counts of a request with `num_choices` answers to each prompt, which count it once."""
    prompt = sum(done.prompt_tokens for done in answers[::num_choices])
    answer = sum(len(done.tokens) for done in answers)
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def _report_of(done: Completed) -> dict[str, Any]:
    report = {name: done.report[name] for name in _REPORTED if name in done.report}
    return report | ({"cut": "repeats"} if done.is_cut else {})


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
    echoes: tuple[str, ...] = ()
    """The prompts, where the answers are to repeat them."""
    ident: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    PREFIX: ClassVar[str] = "cmpl-"
    WHOLE: ClassVar[str] = "text_completion"
    CHUNK: ClassVar[str] = "text_completion"

    def whole(self, answers: Sequence[Completed]) -> dict[str, Any]:
        """Return all answers in one piece."""
        choices = [
            self._whole_choice(index, self._echo(index) + done.text) | {"finish_reason": done.finish_reason}
            for index, done in enumerate(answers)
        ]
        reports = [_report_of(done) for done in answers]
        report = reports[0] if len(reports) == 1 else {"choices": reports}
        return self._frame(self.WHOLE, choices) | {
            "usage": count_usage(answers, self.num_choices),
            "mpispec": report,
        }

    def opening(self, index: int) -> Iterator[str]:
        """Yield the events before the first text of a choice."""
        if self.echoes:
            yield from self.chunk(index, self._echo(index))

    def chunk(self, index: int, text: str) -> Iterator[str]:
        """Yield the events of some text of a streamed answer."""
        yield event(self._frame(self.CHUNK, [self._chunk_choice(index, text) | {"finish_reason": None}]))

    def ending(self, index: int, done: Completed) -> Iterator[str]:
        """Yield the events that say why a choice ends."""
        choice = self._chunk_choice(index, "") | {"finish_reason": done.finish_reason}
        yield event(self._frame(self.CHUNK, [choice]) | {"mpispec": _report_of(done)})

    def closing(self, answers: Sequence[Completed]) -> Iterator[str]:
        """Yield the events after the last choice."""
        if self.includes_usage:
            yield event(self._frame(self.CHUNK, []) | {"usage": count_usage(answers, self.num_choices)})
        yield "data: [DONE]\n\n"

    def failure(self, error: ApiError) -> Iterator[str]:
        """Yield the events that end a stream which cannot go on."""
        yield event(error.body())

    def _echo(self, index: int) -> str:
        return self.echoes[index // self.num_choices] if self.echoes else ""

    def _whole_choice(self, index: int, text: str) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": None}

    def _chunk_choice(self, index: int, text: str) -> dict[str, Any]:
        return self._whole_choice(index, text)

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

    PREFIX: ClassVar[str] = "chatcmpl-"
    WHOLE: ClassVar[str] = "chat.completion"
    CHUNK: ClassVar[str] = "chat.completion.chunk"

    def opening(self, index: int) -> Iterator[str]:
        """Yield the chunk that names the role."""
        delta = {"role": "assistant", "content": ""}
        yield event(
            self._frame(self.CHUNK, [{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}])
        )

    def _whole_choice(self, index: int, text: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "logprobs": None}

    def _chunk_choice(self, index: int, text: str) -> dict[str, Any]:
        return {"index": index, "delta": {"content": text} if text else {}, "logprobs": None}
