"""POST /v1/completions: what is asked, in OpenAI's form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AliasChoices, Field, PlainValidator, WithJsonSchema, field_validator, model_validator

from mpispec.serve.api.fields import MOST_TOP, Given, Logprobs, Whole
from mpispec.serve.api.request import LIMITS, MAX_CHOICES, ChoicesRequest
from mpispec.serve.errors import ApiError
from mpispec.serve.text.scores import NumTop
from mpispec.serve.text.vocabulary import Vocabulary


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


_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}}
_PROMPT = {"anyOf": [{"type": "string"}, _IDS, {"type": "array", "items": {"anyOf": [{"type": "string"}, _IDS]}}]}


class TextRequest(ChoicesRequest):
    """Body of POST /v1/completions."""

    prompt: Annotated[list[str | list[int]], PlainValidator(_read_prompts), WithJsonSchema(_PROMPT)]
    """Each is answered by itself."""
    max_tokens: Given = Field(16, ge=0, validation_alias=AliasChoices(*LIMITS, "max_completion_tokens"))
    """OpenAI's default, which clients rely on; null means as many as fit, 0 that nothing is written."""
    best_of: Whole = None
    echo: bool | None = None
    """Whether the answer repeats the prompt."""
    logprobs: Logprobs = Field(None, ge=0, le=MOST_TOP)
    """How many of the likeliest tokens are named beside each, and beside each of the prompt with `echo`."""

    suffix: str | None = None
    """What is to follow the answer, for models that were trained to fill in."""

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
    def num_top(self) -> NumTop:
        """See `GenerationRequest`."""
        return NumTop(-1 if self.logprobs is None else self.logprobs, self.num_prompt_top)

    @property
    def scores_prompt(self) -> bool:
        """See `GenerationRequest`."""
        return super().scores_prompt or (bool(self.echo) and self.logprobs is not None)


def infilled(vocabulary: Vocabulary, prefix: Sequence[int], suffix: str) -> list[int]:
    """Return the prompt for what goes between a prefix and a suffix. Raises ApiError where the model knows no such."""
    if vocabulary.infill is None:
        sentence = "suffix: this model has no tokens for filling in; leave suffix out, or serve a model that has."
        raise ApiError(400, sentence, param="suffix", code="unsupported_parameter")
    before, after, between = vocabulary.infill
    begins = bool(prefix) and prefix[0] == vocabulary.bos
    first, rest = list(prefix[:begins]), list(prefix[begins:])
    return [*first, before, *rest, after, *vocabulary.tokenize(suffix, special=False, begin=False), between]
