"""What all requests for text have in common, checked: how tokens are decided, and what is not supported."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from mpispec.core.ids import Token
from mpispec.core.messages import Sampling
from mpispec.runtime.engine import MAX_PRIORITY
from mpispec.serve.api.fields import MAX_STOPS, MOST_LAST_N, MOST_TOP, Biases, Given, LastN, Stops, TopK, Whole
from mpispec.serve.errors import ApiError
from mpispec.serve.text.scores import NumTop
from mpispec.serve.text.service import MAX_TEMPERATURE
from mpispec.serve.text.structure import Structured
from mpispec.wire.fields import MAX_SEED, SAMPLING_RANGES

MAX_CHOICES = 64
"""Answers of one request."""

MAX_TIMEOUT = 7 * 86400.0
"""Seconds."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "suffix": ("",),
    "length_penalty": (1,),
    "typical_p": (1,),
    "top_a": (0,),
    "tfs_z": (1,),
    "mirostat": (0,),
    "mirostat_mode": (0,),
    "dynatemp_range": (0,),
    "dry_multiplier": (0,),
    "xtc_probability": (0,),
    "use_beam_search": (False,),
    "bad_words": ([],),
    "allowed_token_ids": ([],),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "prompt_logprobs": (),
    "echo": (False,),
    "best_of": (1,),
    "guided_whitespace_pattern": ("",),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "chat_template": ("",),
    "max_length": (),
    "min_length": (0,),
    "no_repeat_ngram_size": (0,),
    "smoothing_factor": (0,),
    "bad_words_ids": ([],),
    "banned_tokens": ([], ""),
    "banned_strings": ([], ""),
    "custom_token_bans": ("",),
    "ban_eos_token": (False,),
    "do_sample": (True,),
    "num_beams": (1,),
    "penalty_alpha": (0,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "guidance_scale": (1,),
    "encoder_repetition_penalty": (1,),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "truncate_prompt_tokens": (),
    "regex": ("",),
    "ebnf": ("",),
    "format": ("",),
    "options": ({},),
    "images": ([],),
    "logits_processors": ([],),
    "lora": ([],),
    "t_max_predict_ms": (0,),
    "think": (),
    "thinking_budget": (),
    "thinking_token_budget": (),
    "extra_body": ({},),
}
"""Fields that would change the answer and are not supported, with the values that change nothing, as null does."""

_PICKED = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repeat_penalty",
    "repeat_last_n",
    "presence_penalty",
    "frequency_penalty",
)
"""Fields of `Sampling` that a request may set as they are."""

REASONS = {
    "functions": "Send functions as tools.",
    "function_call": "Send tool_choice instead.",
    "chat_template": "The server renders with the model's own template.",
    "max_length": "Send max_tokens.",
    "min_length": "Send min_tokens.",
    "bad_words_ids": "Send logit_bias.",
    "banned_tokens": "Send logit_bias.",
    "custom_token_bans": "Send logit_bias.",
    "ban_eos_token": "Send ignore_eos.",
    "do_sample": "Send temperature: 0.",
    "regex": "Send guided_regex.",
    "ebnf": "Send guided_grammar.",
    "format": "Send response_format.",
    "options": "Send what it holds as fields of the body.",
    "extra_body": "Send what it holds as fields of the body.",
    "t_max_predict_ms": "Send timeout.",
    "think": "Send enable_thinking.",
}
"""What to do instead, where there is something."""


LIMITS = ("max_tokens", "n_predict", "max_new_tokens", "num_predict", "max_output_tokens", "max_gen_len")
"""What clients call the most tokens of an answer: OpenAI, llama.cpp, Hugging Face, Ollama, responses, Llama."""


class StreamOptions(BaseModel):
    """Options of a streamed answer."""

    model_config = ConfigDict(strict=True)

    include_usage: bool | None = None
    include_drafts: bool | None = None
    """Whether chunks say who drafted their tokens, and what was rejected: of chats and texts."""


class GenerationRequest(Structured):
    """What every endpoint takes; `None` stands for the default. Unknown fields that change nothing are let through."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str | None = None
    max_tokens: Given = Field(None, ge=1, validation_alias=AliasChoices(*LIMITS))
    temperature: float | None = Field(None, ge=0, le=MAX_TEMPERATURE)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: TopK = Field(None, ge=0, le=int(SAMPLING_RANGES["top_k"][1]))
    min_p: float | None = Field(None, ge=0, le=1)
    repeat_penalty: float | None = Field(None, ge=SAMPLING_RANGES["repeat_penalty"][0], le=10)
    repetition_penalty: float | None = Field(None, ge=SAMPLING_RANGES["repeat_penalty"][0], le=10)
    """vLLM's and Hugging Face's: the repeat penalty over prompt and answer, however long."""
    repeat_last_n: LastN = Field(None, ge=0, le=MOST_LAST_N)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: Biases = ()
    min_tokens: Given = Field(None, ge=0)
    ignore_eos: bool | None = None
    stop_token_ids: list[Annotated[int, Field(ge=0)]] | None = Field(None, max_length=MAX_STOPS)
    seed: Given = Field(
        None, ge=0, le=MAX_SEED, validation_alias=AliasChoices("seed", "random_seed", "sampling_seed")
    )  # the others are Mistral's and SGLang's
    stop: Stops = Field(
        [], validation_alias=AliasChoices("stop", "stop_sequences", "stopping_strings", "stop_strings")
    )  # the others are Anthropic's, text-generation-webui's and Hugging Face's
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    strategy: str | None = None
    drafter: str | None = Field(None, validation_alias=AliasChoices("drafter", "proposer"))  # its name until 2026-11
    priority: Whole = Field(None, ge=-MAX_PRIORITY, le=MAX_PRIORITY)
    """The lower, the sooner, where there is too little for all; vLLM's name and direction."""
    timeout: float | None = Field(None, gt=0, le=MAX_TIMEOUT)
    """Seconds after which an answer ends with what it has."""
    cut_repeats: bool | None = None
    """Whether the answer is cut where it only repeats itself."""

    @property
    def num_choices(self) -> int:
        """How many answers are wanted for each prompt; the i-th is drawn with the seed + i."""
        return 1

    @property
    def includes_usage(self) -> bool:
        """Whether a streamed answer ends with the token counts."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def includes_drafts(self) -> bool:
        """Whether a streamed answer says of its tokens who drafted them."""
        return bool(self.stream and self.stream_options is not None and self.stream_options.include_drafts)

    @property
    def is_chat(self) -> bool:
        """Whether the answer is a turn of a chat, which may be cut where it only repeats itself."""
        return True

    @property
    def prompt_field(self) -> str:
        """The name of the field that holds what is too long if the prompt is."""
        return "messages"

    @property
    def limit(self) -> int | None:
        """The most tokens wanted; None for as many as fit."""
        return self.max_tokens

    @property
    def num_top(self) -> NumTop:
        """How many of the likeliest tokens are named."""
        return NumTop()

    @property
    def scores_prompt(self) -> bool:
        """Whether the tokens of the prompt are scored too."""
        return self.num_top.prompt >= 0

    def sampling(self, default: Sampling, seed: int) -> Sampling:
        """Return how the tokens are decided: the fields given here, else those of `default`."""

        given = {name: value for name in _PICKED if (value := getattr(self, name)) is not None}
        if self.repetition_penalty is not None:
            given = {"repeat_penalty": self.repetition_penalty, "repeat_last_n": MOST_LAST_N} | given
        biases = tuple((Token(token), bias) for token, bias in self.logit_bias)
        scored = replace(default, top_logprobs=max(self.num_top), scores_prompt=self.scores_prompt)
        return replace(scored, **given, logit_bias=biases, seed=seed)


class ChoicesRequest(GenerationRequest):
    """What chats and texts take: several answers, and vLLM's scores of the prompt."""

    n: Whole = Field(None, ge=1, le=MAX_CHOICES)
    prompt_logprobs: Whole = Field(None, ge=0, le=MOST_TOP)

    @model_validator(mode="after")
    def _scores_whole(self) -> ChoicesRequest:
        if self.stream and self.prompt_logprobs is not None:
            raise ValueError("prompt_logprobs are not streamed; leave out one of them")
        return self

    @property
    def num_choices(self) -> int:
        """See `GenerationRequest`."""
        return self.n or 1

    @property
    def num_prompt_top(self) -> int:
        """See `NumTop`."""
        return -1 if self.prompt_logprobs is None else self.prompt_logprobs


Wanted = TypeVar("Wanted", bound=GenerationRequest)


def parse_request(kind: type[Wanted], body: bytes) -> Wanted:
    """Return the checked body; raises ApiError 400."""
    wanted = parse(kind, body)
    for name, value in (wanted.model_extra or {}).items():
        if name in NEUTRAL and value is not None and not any(_equal(value, neutral) for neutral in NEUTRAL[name]):
            remedy = REASONS.get(name, "Leave it out.")
            raise ApiError(400, f"{name} is not supported. {remedy}", param=name, code="unsupported_parameter")
    return wanted


Body = TypeVar("Body", bound=BaseModel)


def parse(kind: type[Body], body: bytes) -> Body:
    """Return the body as a model of pydantic's; raises ApiError 400."""
    try:
        # Windows programs write a mark before UTF-8.
        return kind.model_validate_json(body.removeprefix(b"\xef\xbb\xbf"))
    except ValidationError as error:
        raise _explain(error) from None


def _equal(value: Any, neutral: Any) -> bool:
    """Compare as JSON does: true is not 1."""
    return isinstance(value, bool) == isinstance(neutral, bool) and bool(value == neutral)


def _explain(error: ValidationError) -> ApiError:
    """Return the first of pydantic's findings as one sentence."""
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        reason = f"The body is not valid JSON in UTF-8: {first['ctx']['error']}."
        return ApiError(400, reason, code="invalid_json")
    if not first["loc"] and first["type"] == "value_error":  # of fields that do not go together
        reason = str(first["ctx"]["error"])
        return ApiError(400, f"{reason[0].upper()}{reason[1:]}.", code="invalid_value")
    if not first["loc"]:
        return ApiError(400, "The body must be a JSON object.", code="invalid_type")
    param = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"]).lstrip(".")
    if first["type"] == "missing":
        return ApiError(400, f"{param} is missing.", param=param, code="missing_required_parameter")
    reason = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]
    return ApiError(400, f"{param}: {reason[0].lower()}{reason[1:]}.", param=param, code="invalid_value")
