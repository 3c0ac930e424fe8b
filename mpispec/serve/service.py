"""What the HTTP server and the REPL serve, in the words they need it in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypedDict

from mpispec.core.messages import Sampling
from mpispec.runtime.engine import Engine
from mpispec.runtime.text_promise import TextPromise

MAX_TEMPERATURE = 2.0
"""Above it a softmax is so flat that the text is noise; OpenAI's bound too."""


class ChatMessage(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


Render = Callable[[Sequence[ChatMessage]], str]
"""A model's chat template: the prompt text that asks for the next assistant turn.

Raises ModelError with a sentence where the template refuses the messages.
"""


class Vocabulary(Protocol):
    """Text to tokens and back. Every method may be called from any thread."""

    @property
    def size(self) -> int:
        """Number of tokens; ids are 0 <= id < size."""

    @property
    def eog(self) -> frozenset[int]:
        """Tokens that end a generation."""

    def tokenize(self, text: str, special: bool) -> list[int]:
        """Return the token ids of `text`; with `special`, control tokens spelled in it become those tokens."""

    def piece(self, token: int) -> bytes:
        """Return the bytes a token stands for; they may be part of a character."""


def always() -> bool:
    """Say yes."""
    return True


@dataclass(frozen=True, slots=True)
class Service:
    """One engine with the vocabulary, the template and the name of its model."""

    engine: Engine
    vocabulary: Vocabulary
    render: Render
    model: str
    """The name that requests may ask for."""
    sampling: Sampling = field(default_factory=Sampling)
    """What a request gets for the fields it leaves out."""
    promise: TextPromise = field(default_factory=TextPromise)
    """What is promised of the texts."""
    alive: Callable[[], bool] = always
    """Whether the engine still takes requests; may be called from any thread."""

    def room(self, prompt: Sequence[int]) -> int:
        """Return how many tokens of answer the context has room for after `prompt`; below 1 it does not fit."""
        return self.engine.context - len(prompt)
