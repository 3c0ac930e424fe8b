"""Answers in OpenAI's form, errors among them, as plain dictionaries. Pure."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Any, ClassVar

import mpispec
from mpispec.serve.completion import Completed

_REPORTED = ("strategy", "drafter", "timing", "speculation")
"""The parts of the engine's report that an answer repeats."""


@dataclass(eq=False, slots=True)
class ApiError(Exception):
    """A request that is answered with an error in OpenAI's form."""

    status: int
    """HTTP status, 4xx or 5xx."""
    message: str
    """One sentence with the remedy."""
    param: str | None = None
    """The field at fault."""
    code: str | None = None
    """A word for programs."""
    retry_after: int | None = None
    """Seconds after which trying again makes sense."""

    def body(self) -> dict[str, object]:
        """Return the JSON body of the answer."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Return the headers that belong to the status."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


def count_usage(done: Completed) -> dict[str, int]:
    """Return the token counts."""
    answer = len(done.tokens)
    return {
        "prompt_tokens": done.prompt_tokens,
        "completion_tokens": answer,
        "total_tokens": done.prompt_tokens + answer,
    }


def _report_of(done: Completed) -> dict[str, Any]:
    report = {name: done.report[name] for name in _REPORTED if name in done.report}
    return report | ({"cut": "repeats"} if done.is_cut else {})


@dataclass(frozen=True)
class TextAnswer:
    """Shapes the answers of POST /v1/completions; the seed is sent so that the answer can be repeated."""

    model: str
    seed: int
    ident: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    PREFIX: ClassVar[str] = "cmpl-"
    WHOLE: ClassVar[str] = "text_completion"
    CHUNK: ClassVar[str] = "text_completion"

    def whole(self, done: Completed) -> dict[str, Any]:
        """Return the answer in one piece."""
        choice = self._whole_choice(done.text) | {"finish_reason": done.finish_reason}
        return self._frame(self.WHOLE, [choice]) | {"usage": count_usage(done), "mpispec": _report_of(done)}

    def opening(self) -> dict[str, Any] | None:
        """Return the chunk before the first text, if the form has one."""
        return None

    def chunk(self, text: str) -> dict[str, Any]:
        """Return a chunk of a streamed answer."""
        return self._frame(self.CHUNK, [self._chunk_choice(text) | {"finish_reason": None}])

    def ending(self, done: Completed) -> dict[str, Any]:
        """Return the chunk that says why the answer ends."""
        choice = self._chunk_choice("") | {"finish_reason": done.finish_reason}
        return self._frame(self.CHUNK, [choice]) | {"mpispec": _report_of(done)}

    def usage(self, done: Completed) -> dict[str, Any]:
        """Return the chunk of token counts, which has no choices."""
        return self._frame(self.CHUNK, []) | {"usage": count_usage(done)}

    def _whole_choice(self, text: str) -> dict[str, Any]:
        return {"index": 0, "text": text, "logprobs": None}

    def _chunk_choice(self, text: str) -> dict[str, Any]:
        return self._whole_choice(text)

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

    def opening(self) -> dict[str, Any]:
        """Return the chunk that names the role."""
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        return self._frame(self.CHUNK, [choice])

    def _whole_choice(self, text: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": 0, "message": message, "logprobs": None}

    def _chunk_choice(self, text: str) -> dict[str, Any]:
        return {"index": 0, "delta": {"content": text} if text else {}, "logprobs": None}
