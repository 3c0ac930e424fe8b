"""Types of fields of a request: strict ("1" is no number), but for what clients send to say "default"."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainValidator, WithJsonSchema

from mpispec.wire.fields import MOST_BIAS, SAMPLING_RANGES

MAX_STOPS = 64
MOST_LAST_N = 1 << 16
"""Tokens that the repeat penalty looks back at."""
MOST_BIASES = 512
MOST_GIVEN = 100
"""Largest bias, in either direction, as OpenAI has it."""
_TOKEN_DIGITS = 9
MOST_TOP = int(SAMPLING_RANGES["top_logprobs"][1])
"""Likeliest tokens that are named beside one."""
MAX_STOP_LENGTH = 256
"""Characters; text of this length may be held back."""


def _read_whole(value: Any) -> Any:
    """JSON has one kind of number: 16.0 is as whole as 16."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _read_given(value: Any) -> Any:
    value = _read_whole(value)
    return None if value in (-1, math.inf) else value


def _read_top_k(value: Any) -> Any:
    value = _read_whole(value)
    return 0 if value == -1 else value


def _read_last_n(value: Any) -> Any:
    value = _read_whole(value)
    return MOST_LAST_N if value == -1 else value


def _read_logprobs(value: Any) -> Any:
    return {False: None, True: 0}[value] if isinstance(value, bool) else _read_whole(value)


Whole = Annotated[int | None, BeforeValidator(_read_whole)]
Given = Annotated[int | None, BeforeValidator(_read_given)]
"""A whole number, where -1 and infinity stand for the default: the way of clients that cannot leave a field out."""
TopK = Annotated[int | None, BeforeValidator(_read_top_k)]
"""-1 keeps all, as in vLLM."""
Logprobs = Annotated[int | None, BeforeValidator(_read_logprobs)]
"""A number of likeliest tokens; true for none of them, false for no logarithms at all."""
LastN = Annotated[int | None, BeforeValidator(_read_last_n)]
"""-1 looks at all of the text, as in llama.cpp."""


def _read_biases(value: Any) -> tuple[tuple[int, float], ...]:
    """Read OpenAI's object of token ids, or llama.cpp's list of pairs, where false forbids a token."""
    pairs = value.items() if isinstance(value, dict) else [] if value is None else value
    if not isinstance(value, dict | list | None) or not all(_is_pair(pair) for pair in pairs):
        raise ValueError("must be an object with a bias for each token id, or a list of pairs of them")
    if len(pairs) > MOST_BIASES:
        raise ValueError(f"may hold at most {MOST_BIASES} entries")
    biases = {_read_token(token): -MOST_BIAS if bias is False else _read_bias(bias) for token, bias in pairs}
    return tuple(sorted(biases.items()))


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, list | tuple) and len(pair) == 2


def _read_token(token: Any) -> int:
    if isinstance(token, bool) or not isinstance(token, int | str) or not str(token).isascii():
        raise ValueError("must name tokens by their ids")
    if not str(token).isdigit() or len(str(token)) > _TOKEN_DIGITS:
        raise ValueError(f"must name tokens by their ids, and {str(token)[:20]!r} is none; /tokenize tells them")
    return int(token)


def _read_bias(bias: Any) -> float:
    if isinstance(bias, bool) or not isinstance(bias, int | float) or not -MOST_GIVEN <= bias <= MOST_GIVEN:
        raise ValueError(f"must hold biases from {-MOST_GIVEN} to {MOST_GIVEN}, or false for a token that is not to be")
    return float(bias)


_BIASES = {
    "anyOf": [
        {"type": "object", "additionalProperties": {"anyOf": [{"type": "number"}, {"const": False}]}},
        {"type": "array", "items": {"type": "array", "minItems": 2, "maxItems": 2}},
        {"type": "null"},
    ]
}
Biases = Annotated[tuple[tuple[int, float], ...], PlainValidator(_read_biases), WithJsonSchema(_BIASES)]
"""Token ids, each with what is added to its logit."""


def _read_stops(value: Any) -> list[str]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise ValueError("must be a string or a list of strings")
    stops = [stop for stop in stops if stop]
    if len(stops) > MAX_STOPS:
        raise ValueError(f"may hold at most {MAX_STOPS} strings")
    if not all(len(stop) <= MAX_STOP_LENGTH for stop in stops):
        raise ValueError(f"must hold strings of at most {MAX_STOP_LENGTH} characters")
    return stops


_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}
Stops = Annotated[
    list[str], PlainValidator(_read_stops), WithJsonSchema({"anyOf": [_TEXT, {**_TEXTS, "maxItems": MAX_STOPS}]})
]

_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Parts of a message that are text, and the field that holds it."""


def read_content(value: Any) -> Any:
    """Return the text of parts, joined by newlines as llama.cpp and vLLM do; what is no list as it is.

    Raises ValueError with a sentence.
    """
    if not isinstance(value, list):
        return value
    texts = []
    for part in value:
        text = part.get(_TEXT_PARTS.get(str(part.get("type")), "")) if isinstance(part, dict) else part
        if not isinstance(text, str):
            raise ValueError('may only hold parts of the form {"type": "text", "text": "..."}; models here read text')
        texts.append(text)
    return "\n".join(texts)


def read_result(value: Any) -> Any:
    """Return what a tool found, as `read_content` does; of parts that are no text it says that there were some.

    The program that ran the tool does not know what the model reads, and its work would be over if it were refused.
    """
    if not isinstance(value, list):
        return value
    return read_content(
        [part if _is_text(part) else f"[{_kind_of(part)}: this model reads text alone]" for part in value]
    )


def _is_text(part: Any) -> bool:
    return not isinstance(part, dict) or part.get("type") in _TEXT_PARTS


def _kind_of(part: dict[str, Any]) -> str:
    kind = str(part.get("type"))[:40]
    return kind.removeprefix("input_").removesuffix("_url")


_PARTS = {"type": "array", "items": {"type": "object", "properties": {"type": _TEXT, "text": _TEXT}}}
Content = Annotated[
    str | None, BeforeValidator(read_content), WithJsonSchema({"anyOf": [_TEXT, _PARTS, {"type": "null"}]})
]
"""The text of a message: a string, or a list of parts."""
