"""What the log and the metrics tell of a request: figures and the server's own words, never text or keys."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mpispec.serve.text.completion import AsyncCompletion

_KEY = "mpispec.facts"
_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer in figures."""

    prompt_tokens: int
    cached_tokens: int
    """Of these, in the cache already."""
    times: Sequence[float]
    """Seconds on the monotonic clock at which its tokens became final."""
    finish_reason: str
    """As the client got it; `abort` where it left before the end."""
    report: dict[str, Any]
    """`Engine.report` of the request."""

    @classmethod
    def of(cls, completion: AsyncCompletion) -> Answered:
        """Return the figures of an answer that nobody waits for any more."""
        if not completion.has_ended:
            return cls(completion.prompt_tokens, 0, completion.times, "abort", {})
        done = completion.result()
        reason = done.finish_reason
        return cls(done.prompt_tokens, done.cached_tokens, completion.times, reason, done.report)

    def figure(self, part: str, name: str) -> Any:
        """Return one of the report's figures; None where it has none."""
        return self.report.get(part, {}).get(name)


@dataclass(slots=True)
class Facts:
    """What is known of an HTTP request."""

    id: str
    came: float = field(default_factory=time.monotonic)
    """Seconds on the monotonic clock."""
    answers: list[Answered] = field(default_factory=list)

    @property
    def ttft_s(self) -> float | None:
        """Seconds to the first token of any answer."""
        first = min((answer.times[0] for answer in self.answers if answer.times), default=None)
        return None if first is None else first - self.came


def request_id(asked: str) -> str:
    """Return the id of a request: what the client calls it, if that is a word, else a new one."""
    return asked if _ID.fullmatch(asked) else f"req-{secrets.token_hex(12)}"


def attach(scope: MutableMapping[str, Any], facts: Facts) -> None:
    """Have an ASGI scope carry facts to whoever answers."""
    scope[_KEY] = facts


def note(scope: MutableMapping[str, Any], completions: Sequence[AsyncCompletion]) -> None:
    """Note the answers to the request of a scope that carries facts."""
    facts = scope.get(_KEY)
    if isinstance(facts, Facts):
        facts.answers += [Answered.of(completion) for completion in completions]
