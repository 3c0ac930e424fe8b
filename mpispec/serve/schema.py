"""Requests in OpenAI's form, checked. Types are strict: "1" is no number."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError

from mpispec.core.messages import Sampling
from mpispec.serve.answers import ApiError
from mpispec.serve.service import MAX_TEMPERATURE, ChatMessage
from mpispec.wire.fields import MAX_SEED, SAMPLING_RANGES

MAX_MESSAGES = 16384
"""Each takes tokens of the context, and time of the event loop before that is found out."""
MAX_STOPS = 16
MAX_STOP_LENGTH = 256
"""Characters; text of this length may be held back."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "typical_p": (1,),
    "mirostat": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "grammar": ("",),
    "json_schema": ({},),
}
"""Fields that would change the answer and are not supported, with the values that change nothing, as null does."""


def _read_stops(value: Any) -> list[str]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise ValueError("must be a string or a list of strings")
    if len(stops) > MAX_STOPS:
        raise ValueError(f"may hold at most {MAX_STOPS} strings")
    if not all(0 < len(stop) <= MAX_STOP_LENGTH for stop in stops):
        raise ValueError(f"must hold strings of 1 to {MAX_STOP_LENGTH} characters")
    return stops


def _read_content(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    texts = []
    for part in value:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ValueError('may only hold parts of the form {"type": "text", "text": "..."}')
        texts.append(part["text"])
    return "".join(texts)


def _is_token_ids(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, int) and not isinstance(item, bool) for item in value)


def _read_prompt(value: Any) -> str | list[int]:
    if isinstance(value, list) and value and all(isinstance(item, str | list) for item in value):
        if len(value) > 1:
            raise ValueError("holds several prompts; send one request for each")
        value = value[0]
    if not isinstance(value, str) and not _is_token_ids(value):
        raise ValueError("must be a string or a list of token ids")
    if not value:
        raise ValueError("must not be empty")
    return value  # type: ignore[no-any-return]


class StreamOptions(BaseModel):
    """Options of a streamed answer."""

    model_config = ConfigDict(strict=True)

    include_usage: bool | None = None


class Message(BaseModel):
    """One turn of the conversation."""

    model_config = ConfigDict(strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_read_content)]

    def plain(self) -> ChatMessage:
        """Return what a chat template takes; `developer` is OpenAI's newer name for `system`."""
        return {"role": "system" if self.role == "developer" else self.role, "content": self.content}


class CompletionRequest(BaseModel):
    """What both endpoints take; `None` stands for the default. Unknown fields that change nothing are let through."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str | None = None
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=MAX_TEMPERATURE)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=int(SAMPLING_RANGES["top_k"][1]))
    min_p: float | None = Field(None, ge=0, le=1)
    repeat_penalty: float | None = Field(None, ge=SAMPLING_RANGES["repeat_penalty"][0], le=10)
    repeat_last_n: int | None = Field(None, ge=0, le=4096)
    seed: int | None = Field(None, ge=0, le=MAX_SEED)
    stop: Annotated[list[str], PlainValidator(_read_stops)] = []
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    strategy: str | None = None
    drafter: str | None = Field(None, validation_alias=AliasChoices("drafter", "proposer"))  # its name until 2026-11
    cut_repeats: bool | None = None
    """Whether the answer is cut where it only repeats itself."""

    @property
    def includes_usage(self) -> bool:
        """Whether a streamed answer ends with the token counts."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def limit(self) -> int | None:
        """The most tokens wanted; None for as many as fit."""
        return self.max_tokens

    def sampling(self, default: Sampling, seed: int) -> Sampling:
        """Return how the tokens are decided: the fields given here, else those of `default`."""

        def pick(name: str) -> Any:
            value = getattr(self, name)
            return getattr(default, name) if value is None else value

        return Sampling(
            temperature=float(pick("temperature")),
            top_k=pick("top_k"),
            top_p=float(pick("top_p")),
            min_p=float(pick("min_p")),
            repeat_penalty=float(pick("repeat_penalty")),
            repeat_last_n=pick("repeat_last_n"),
            seed=seed,
        )


class TextRequest(CompletionRequest):
    """Body of POST /v1/completions."""

    prompt: Annotated[str | list[int], PlainValidator(_read_prompt)]
    max_tokens: int | None = Field(16, ge=1)
    """OpenAI's default, which clients rely on; null means as many as fit."""


class ChatRequest(CompletionRequest):
    """Body of POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)
    max_completion_tokens: int | None = Field(None, ge=1)

    @property
    def limit(self) -> int | None:
        """The most tokens wanted; None for as many as fit."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


Wanted = TypeVar("Wanted", bound=CompletionRequest)


def parse_request(kind: type[Wanted], body: bytes) -> Wanted:
    """Return the checked body; raises ApiError 400."""
    try:
        wanted = kind.model_validate_json(body)
    except ValidationError as error:
        raise _explain(error) from None
    for name, value in (wanted.model_extra or {}).items():
        if name in NEUTRAL and value is not None and not any(_equal(value, neutral) for neutral in NEUTRAL[name]):
            raise ApiError(400, f"{name} is not supported; leave it out.", param=name, code="unsupported_parameter")
    return wanted


def _equal(value: Any, neutral: Any) -> bool:
    """Compare as JSON does: true is not 1."""
    return isinstance(value, bool) == isinstance(neutral, bool) and bool(value == neutral)


def _explain(error: ValidationError) -> ApiError:
    """Return the first of pydantic's findings as one sentence."""
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return ApiError(400, f"The body is not valid JSON: {first['ctx']['error']}.", code="invalid_json")
    if not first["loc"]:
        return ApiError(400, "The body must be a JSON object.", code="invalid_type")
    param = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"]).lstrip(".")
    if first["type"] == "missing":
        return ApiError(400, f"{param} is missing.", param=param, code="missing_required_parameter")
    reason = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]
    return ApiError(400, f"{param}: {reason[0].lower()}{reason[1:]}.", param=param, code="invalid_value")
