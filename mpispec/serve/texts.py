"""POST /v1/completions: what is asked, in OpenAI's form."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, PlainValidator, field_validator, model_validator

from mpispec.serve.fields import Given, Whole
from mpispec.serve.request import MAX_CHOICES, GenerationRequest


def _is_token_ids(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, int) and not isinstance(item, bool) for item in value)


def _read_prompts(value: Any) -> list[str | list[int]]:
    prompts = value if isinstance(value, list) and value and not _is_token_ids(value) else [value]
    for prompt in prompts:
        if not isinstance(prompt, str) and not _is_token_ids(prompt):
            raise ValueError("must be a string or a list of token ids, or a list of those")
        if not prompt:
            raise ValueError("must not be empty")
    return prompts


class TextRequest(GenerationRequest):
    """Body of POST /v1/completions."""

    prompt: Annotated[list[str | list[int]], PlainValidator(_read_prompts)]
    """Each is answered by itself."""
    max_tokens: Given = Field(16, ge=1)
    """OpenAI's default, which clients rely on; null means as many as fit."""
    n: Whole | None = Field(None, ge=1, le=MAX_CHOICES)
    best_of: Whole | None = None
    echo: bool | None = None
    """Whether the answer repeats the prompt."""

    @model_validator(mode="after")
    def _fits(self) -> TextRequest:
        if len(self.prompt) * self.num_choices > MAX_CHOICES:
            raise ValueError(f"a request may ask for {MAX_CHOICES} answers, n for each prompt")
        return self

    @field_validator("best_of")
    @classmethod
    def _is_one(cls, value: int | None) -> int | None:
        if value not in (None, 1):
            raise ValueError("the server does not know the probability of an answer, so it cannot choose; ask for n")
        return value

    @property
    def is_chat(self) -> bool:
        """See `GenerationRequest`."""
        return False

    @property
    def prompt_field(self) -> str:
        """See `GenerationRequest`."""
        return "prompt"

    @property
    def num_choices(self) -> int:
        """See `GenerationRequest`."""
        return self.n or 1
