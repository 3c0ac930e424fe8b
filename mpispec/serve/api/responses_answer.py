"""Answers of POST /v1/responses: items that begin, grow and end. Pure."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mpispec.core.messages import Sampling
from mpispec.serve.api.answers import Answered, event, report_of
from mpispec.serve.api.response_tools import ResponseTool, repeated
from mpispec.serve.api.responses import ResponsesRequest
from mpispec.serve.api.tools import text_of
from mpispec.serve.errors import ApiError
from mpispec.serve.text.completion import Completed
from mpispec.serve.text.scores import of_output
from mpispec.serve.text.turn import Argued, Called, Piece, Said, Thought, Turn

_Event = dict[str, Any]

_GROWING = {"message": "response.output_text", "reasoning": "response.reasoning_text"}
"""By type of an item, the events of its text."""
_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc", "custom_tool_call": "ctc"}
"""Of identifiers, by type of an item."""


class _Output:
    """The items of a response, made of pieces; yields what happens to them."""

    def __init__(self, ident: str, tools: Sequence[ResponseTool]) -> None:
        self.items: list[dict[str, Any]] = []
        self._ident = ident
        self._tools = {tool.label: tool for tool in tools}
        self._is_open = False
        self._arguments = ""
        """Of a custom tool's call: the text in them is known when they are complete."""

    def take(self, piece: Piece) -> Iterator[_Event]:
        """Add a piece."""
        match piece:
            case Said(text, _, scores):
                if not text and self.items and not self._is_message:
                    return  # only what a call was made of: nothing is said
                yield from self._open("message", role="assistant", content=[])
                empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
                yield from self._grow(text, empty, of_output(scores))
            case Thought(text):
                yield from self._open("reasoning", summary=[], content=[])
                yield from self._grow(text, {"type": "reasoning_text", "text": ""})
            case Called(number, name):
                yield from self.close()
                yield from self._open_call(f"call_{self._ident}_{number}", name)
            case Argued(_, text) if self.items[-1]["type"] == "custom_tool_call":
                self._arguments += text
            case Argued(_, text):
                self.items[-1]["arguments"] += text
                yield self._event("response.function_call_arguments.delta", delta=text)

    def close(self, status: str = "completed") -> Iterator[_Event]:
        """End the item that is growing."""
        if not self._is_open:
            return
        self._is_open = False
        item = self.items[-1]
        item["status"] = status
        if item["type"] == "function_call":
            yield self._event("response.function_call_arguments.done", arguments=item["arguments"], name=item["name"])
        elif item["type"] == "custom_tool_call":
            text = item["input"] = text_of(self._arguments)
            yield self._event("response.custom_tool_call_input.delta", delta=text)
            yield self._event("response.custom_tool_call_input.done", input=text)
        else:
            [part] = item["content"]
            scores = part.get("logprobs", [])
            yield self._event(f"{_GROWING[item['type']]}.done", content_index=0, text=part["text"], logprobs=scores)
            yield self._event("response.content_part.done", content_index=0, part=part)
        yield {"type": "response.output_item.done", "output_index": len(self.items) - 1, "item": item}

    def _open_call(self, ident: str, label: str) -> Iterator[_Event]:
        tool = self._tools.get(label)  # models make some up
        named = {"call_id": ident, "name": label if tool is None else tool.name}
        if tool is not None and tool.namespace is not None:
            named["namespace"] = tool.namespace
        self._arguments = ""
        is_custom = tool is not None and tool.type == "custom"
        kind, given = ("custom_tool_call", "input") if is_custom else ("function_call", "arguments")
        yield from self._open(kind, **named, **{given: ""})

    def _open(self, kind: str, **fields: Any) -> Iterator[_Event]:
        if self._is_open and self.items[-1]["type"] == kind:
            return
        yield from self.close()
        self._is_open = True
        ident = f"{_PREFIXES[kind]}_{self._ident}_{len(self.items)}"
        self.items.append({"type": kind, "id": ident, "status": "in_progress", **fields})
        yield {"type": "response.output_item.added", "output_index": len(self.items) - 1, "item": self.items[-1]}

    @property
    def _is_message(self) -> bool:
        return self._is_open and self.items[-1]["type"] == "message"

    def _grow(self, text: str, empty: dict[str, Any], logprobs: Sequence[dict[str, Any]] = ()) -> Iterator[_Event]:
        """Add text to the only part of an item."""
        parts = self.items[-1]["content"]
        if not parts:
            yield self._event("response.content_part.added", content_index=0, part=empty)
            parts.append({**empty, "logprobs": []} if "logprobs" in empty else {**empty})
        parts[0]["text"] += text
        if logprobs:
            parts[0]["logprobs"] += logprobs
        yield self._event(f"{_GROWING[self.items[-1]['type']]}.delta", content_index=0, delta=text, logprobs=logprobs)

    def _event(self, kind: str, **fields: Any) -> _Event:
        place = {"item_id": self.items[-1]["id"], "output_index": len(self.items) - 1}
        return {"type": kind, **place, **fields}


@dataclass
class ResponsesAnswer:
    """Shapes the answer of POST /v1/responses."""

    model: str
    wanted: ResponsesRequest
    sampling: Sampling
    ident: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self._output = _Output(self.ident, self.wanted.tools or ())
        self._num_events = 0

    def ping(self) -> str:
        """See `Answer`. Codex takes comments for silence, and begins anew after 300 s of it; this it skips."""
        return self._send({"type": "response.in_progress", "response": self._response(None)})

    def whole(self, answers: Sequence[Answered]) -> dict[str, Any]:
        """See `Answer`."""
        [(turn, done)] = answers
        for piece in turn.pieces:
            _exhaust(self._output.take(piece))
        _exhaust(self._ended(done))
        return self._response(done)

    def opening(self, index: int) -> Iterator[str]:
        """See `Answer`."""
        for name in ("response.created", "response.in_progress"):
            yield self._send({"type": name, "response": self._response(None)})

    def chunk(self, index: int, piece: Piece) -> Iterator[str]:
        """See `Answer`."""
        yield from map(self._send, self._output.take(piece))

    def ending(self, index: int, turn: Turn, done: Completed) -> Iterator[str]:
        """See `Answer`."""
        yield from map(self._send, self._ended(done))

    def closing(self, answers: Sequence[Answered]) -> Iterator[str]:
        """See `Answer`."""
        [(_, done)] = answers
        response = self._response(done)
        yield self._send({"type": f"response.{response['status']}", "response": response})

    def failure(self, error: ApiError) -> Iterator[str]:
        """See `Answer`."""
        reason = {"code": "server_error", "message": error.message}
        response = {**self._response(None), "status": "failed", "error": reason}
        yield self._send({"type": "response.failed", "response": response})

    def _ended(self, done: Completed) -> Iterator[_Event]:
        """End the last item; an answer without one is an empty message."""
        if not self._output.items:
            yield from self._output.take(Said(""))
        yield from self._output.close("incomplete" if done.is_unfinished else "completed")

    def _send(self, happened: _Event) -> str:
        numbered = {**happened, "sequence_number": self._num_events}
        self._num_events += 1
        return event(numbered, happened["type"])

    def _response(self, done: Completed | None) -> dict[str, Any]:
        is_cut = done is not None and done.is_unfinished
        ended = {} if done is None else {"usage": _usage(done), "mpispec": report_of(done)}
        status = "in_progress" if done is None else "incomplete" if is_cut else "completed"
        return {
            "id": f"resp_{self.ident}",
            "object": "response",
            "created_at": self.created,
            "completed_at": None if done is None or is_cut else int(time.time()),
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "model": self.model,
            "output": list(self._output.items),
            **self._repeated(),
            "usage": None,
            "seed": self.sampling.seed,
            **ended,
        }

    def _repeated(self) -> dict[str, Any]:
        """Return what the response says of the request."""
        wanted = self.wanted
        effort = None if wanted.reasoning is None else wanted.reasoning.effort
        return {
            "instructions": wanted.instructions,
            "previous_response_id": None,
            "max_output_tokens": wanted.limit,
            "max_tool_calls": None,
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "presence_penalty": self.sampling.presence_penalty,
            "frequency_penalty": self.sampling.frequency_penalty,
            "top_logprobs": wanted.top_logprobs or 0,
            "tools": repeated(wanted.tools or ()),
            "tool_choice": wanted.tool_choice or "auto",
            "parallel_tool_calls": wanted.parallel_tool_calls is not False,
            "reasoning": {"effort": effort, "summary": None},
            "text": {"format": {"type": "text"}},
            "truncation": "disabled",
            "store": False,
            "background": False,
            "service_tier": "default",
            "metadata": wanted.metadata or {},
            "safety_identifier": None,
            "prompt_cache_key": None,
        }


def _usage(done: Completed) -> dict[str, Any]:
    answer = len(done.tokens)
    return {
        "input_tokens": done.prompt_tokens,
        "input_tokens_details": {"cached_tokens": done.cached_tokens},
        "output_tokens": answer,
        "output_tokens_details": {"reasoning_tokens": done.thought_tokens},
        "total_tokens": done.prompt_tokens + answer,
    }


def _exhaust(events: Iterable[Any]) -> None:
    for _ in events:
        pass
