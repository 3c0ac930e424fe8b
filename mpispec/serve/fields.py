"""Types of fields of a request: strict ("1" is no number), but for what clients send to say "default"."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, PlainValidator

MAX_STOPS = 64
MAX_STOP_LENGTH = 256
"""Characters; text of this length may be held back."""


def _read_whole(value: Any) -> Any:
    """JSON has one kind of number: 16.0 is as whole as 16."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _read_given(value: Any) -> Any:
    value = _read_whole(value)
    return None if value == -1 else value


Whole = Annotated[int, BeforeValidator(_read_whole)]
Given = Annotated[int | None, BeforeValidator(_read_given)]
"""A whole number, where -1 stands for the default: the way of clients that cannot leave a field out."""


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


Stops = Annotated[list[str], PlainValidator(_read_stops)]

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


Content = Annotated[str | None, BeforeValidator(read_content)]
"""The text of a message: a string, or a list of parts."""
