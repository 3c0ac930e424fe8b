"""What the HTTP server and the REPL serve, in the words they need it in."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mpispec.core.messages import Sampling
from mpispec.sampling import describe
from mpispec.serve.text.engine import Engine
from mpispec.serve.text.prompt import Prompts
from mpispec.serve.text.vocabulary import Vocabulary

MAX_TEMPERATURE = 2.0
"""Above it a softmax is so flat that the text is noise; OpenAI's bound too."""

_OF_REQUESTS = frozenset(
    {"seed", "begins", "held_to", "logit_bias", "held", "top_logprobs", "scores_prompt", "grammar"}
)
"""Fields of `Sampling` that no server sets for all requests."""


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
        sampling = {name: value for name, value in asdict(self.sampling).items() if name not in _OF_REQUESTS}
        return {"sampling": sampling, "recommended_by": self.source or None, "cut_repeats": self.cuts_repeats}


@dataclass(frozen=True, slots=True)
class Service:
    """What makes text of an engine, which knows token ids: vocabulary, prompts, name and manner of its model."""

    engine: Engine
    vocabulary: Vocabulary
    prompts: Prompts
    model: str
    """The name that requests may ask for."""
    manner: Manner = field(default_factory=Manner)
    greeting: str = ""
    """What a person at the prompt should know of the model."""
    aliases: tuple[str, ...] = ()
    """Other names that requests may ask for; `*` in them stands for anything."""

    @property
    def context(self) -> int:
        """Positions that prompt and answer may have together."""
        return self.engine.facts.context

    def room(self, prompt: Sequence[int]) -> int:
        """Return how many tokens of answer the context has room for after `prompt`; below 1 it does not fit."""
        return self.context - len(prompt)
