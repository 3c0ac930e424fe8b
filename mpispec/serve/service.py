"""What the HTTP server and the REPL serve, in the words they need it in."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, TypedDict

from mpispec.core.messages import Sampling
from mpispec.runtime.engine import Engine
from mpispec.sampling import describe

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


@dataclass(frozen=True, slots=True)
class Manner:
    """How answers are drawn where a request does not say it."""

    sampling: Sampling = field(default_factory=Sampling)
    """What a request gets for the fields it leaves out, seed aside."""
    likeliest: Sampling = field(default_factory=Sampling)
    """The same for a request that asks for the temperature 0."""
    seed: int | None = None
    """The seed of requests without one; None: each gets a random one."""
    source: str = ""
    """Who recommends that sampling; empty if the user chose all of it."""
    cuts_repeats: bool = True
    """Whether answers of a chat that only repeat themselves are cut."""

    def defaults(self, temperature: float | None) -> Sampling:
        """Return what a request gets that asks for this temperature, or for none."""
        return self.likeliest if temperature == 0.0 else self.sampling

    def pick_seed(self) -> int:
        """Return the seed of a request without one."""
        return secrets.randbelow(1 << 32) if self.seed is None else self.seed

    def describe(self) -> str:
        """Return in words how answers are drawn, and who recommends it."""
        return describe(self.sampling) + (f" (recommended by {self.source})" if self.source else "")

    def fields(self) -> dict[str, Any]:
        """Return the same for programs."""
        sampling = {name: value for name, value in asdict(self.sampling).items() if name != "seed"}
        return {"sampling": sampling, "recommended_by": self.source or None, "cut_repeats": self.cuts_repeats}


@dataclass(frozen=True, slots=True)
class Service:
    """What makes text of an engine, which knows token ids: vocabulary, template, name and manner of its model."""

    engine: Engine
    vocabulary: Vocabulary
    render: Render
    model: str
    """The name that requests may ask for."""
    manner: Manner = field(default_factory=Manner)
    greeting: str = ""
    """What a person at the prompt should know of the model."""

    def room(self, prompt: Sequence[int]) -> int:
        """Return how many tokens of answer the context has room for after `prompt`; below 1 it does not fit."""
        return self.engine.context - len(prompt)
