"""Answers of POST /v1/messages: blocks that begin, grow and end. Pure."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mpispec.serve.api.answers import Answered, event, report_of
from mpispec.serve.errors import ApiError
from mpispec.serve.text.completion import Completed
from mpispec.serve.text.turn import Argued, Called, Piece, Said, Thought, Turn

_PINGS_TO_CHANGE = 4
"""One of so many pings is an event that clients look at, which says that nothing has changed."""


@dataclass
class MessagesAnswer:
    """Shapes the answer of POST /v1/messages."""

    model: str
    seed: int
    prompt_tokens: int
    ident: str = field(default_factory=lambda: secrets.token_hex(12))

    def __post_init__(self) -> None:
        self._num_pings = 0
        self._num_blocks = 0
        self._kind = ""
        """Of the block that is growing; empty where none is."""

    def ping(self) -> str:
        """See `Answer`. Claude Code takes pings for silence, and gives up after 300 s of it."""
        self._num_pings += 1
        if self._num_pings % _PINGS_TO_CHANGE:
            return event({"type": "ping"}, "ping")
        unchanged = {"stop_reason": None, "stop_sequence": None}
        return event({"type": "message_delta", "delta": unchanged, "usage": {"output_tokens": 0}}, "message_delta")

    def whole(self, answers: Sequence[Answered]) -> dict[str, Any]:
        """See `Answer`."""
        [(turn, done)] = answers
        content: list[dict[str, Any]] = []
        calls = turn.calls
        for piece in turn.pieces:
            match piece:
                case Said(text):
                    content.append({"type": "text", "text": text})
                case Thought(text):
                    content.append({"type": "thinking", "thinking": text, "signature": ""})
                case Called(number, _):
                    content.append(self._tool_use(number, calls[number].name, _as_object(calls[number].arguments)))
        return self._message(content) | {
            **_stop(turn, done),
            "usage": _usage(done.prompt_tokens, done.cached_tokens, len(done.tokens)),
            "mpispec": report_of(done),
        }

    def opening(self, index: int) -> Iterator[str]:
        """See `Answer`."""
        # How much of the prompt is cached is known when its turn comes; what is counted at the end replaces this.
        message = self._message([]) | {"usage": _usage(self.prompt_tokens, 0, 0)}
        yield event({"type": "message_start", "message": message}, "message_start")

    def chunk(self, index: int, piece: Piece) -> Iterator[str]:
        """See `Answer`."""
        match piece:
            case Said(text):
                yield from self._grow({"type": "text", "text": ""}, {"type": "text_delta", "text": text})
            case Thought(text):
                block = {"type": "thinking", "thinking": "", "signature": ""}
                yield from self._grow(block, {"type": "thinking_delta", "thinking": text})
            case Called(number, name):
                yield from self._close()
                yield from self._open(self._tool_use(number, name, {}))
            case Argued(_, text):
                yield self._delta({"type": "input_json_delta", "partial_json": text})

    def ending(self, index: int, turn: Turn, done: Completed) -> Iterator[str]:
        """See `Answer`."""
        yield from self._close()
        usage = _usage(done.prompt_tokens, done.cached_tokens, len(done.tokens))
        ended = {"type": "message_delta", "delta": _stop(turn, done), "usage": usage, "mpispec": report_of(done)}
        yield event(ended, "message_delta")

    def closing(self, answers: Sequence[Answered]) -> Iterator[str]:
        """See `Answer`."""
        yield event({"type": "message_stop"}, "message_stop")

    def failure(self, error: ApiError) -> Iterator[str]:
        """See `Answer`."""
        yield event(error.anthropic_body(), "error")

    def _grow(self, block: dict[str, Any], delta: dict[str, Any]) -> Iterator[str]:
        if self._kind != block["type"]:
            yield from self._close()
            yield from self._open(block)
        yield self._delta(delta)

    def _open(self, block: dict[str, Any]) -> Iterator[str]:
        self._kind = block["type"]
        begun = {"type": "content_block_start", "index": self._num_blocks, "content_block": block}
        yield event(begun, "content_block_start")

    def _delta(self, delta: dict[str, Any]) -> str:
        return event({"type": "content_block_delta", "index": self._num_blocks, "delta": delta}, "content_block_delta")

    def _close(self) -> Iterator[str]:
        if self._kind:
            self._kind = ""
            yield event({"type": "content_block_stop", "index": self._num_blocks}, "content_block_stop")
            self._num_blocks += 1

    def _tool_use(self, number: int, name: str, given: Any) -> dict[str, Any]:
        return {"type": "tool_use", "id": f"toolu_{self.ident}_{number}", "name": name, "input": given}

    def _message(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": f"msg_{self.ident}",
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": None,
            "stop_sequence": None,
            "seed": self.seed,
        }


def _stop(turn: Turn, done: Completed) -> dict[str, Any]:
    if done.is_unfinished:
        reason = "max_tokens"
    elif done.stop is not None:
        reason = "stop_sequence"
    else:
        reason = "tool_use" if turn.calls else "end_turn"
    return {"stop_reason": reason, "stop_sequence": done.stop}


def _usage(prompt: int, cached: int, answer: int) -> dict[str, int]:
    """Return the token counts; the input has all that was not cached, as Anthropic counts it."""
    return {
        "input_tokens": prompt - cached,
        "output_tokens": answer,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
    }


def _as_object(arguments: str) -> Any:
    """Return the arguments of a call; none where the model wrote no object, or was cut off in it."""
    try:
        found = json.loads(arguments, strict=False)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
