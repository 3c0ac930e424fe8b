"""What a chat template takes, found out by rendering probes: its source does not say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mpispec.models.errors import ModelError

_WORDS = "Probing words"


@dataclass(frozen=True, slots=True)
class TemplateTraits:
    """How messages must be for a template to show them."""

    shows_words: bool = True
    """Whether it shows what a user says, in one of the forms."""
    wants_parts: bool = False
    """Whether content must be a list of parts; templates of models that can also see loop over it."""


def probe(render: Callable[..., str]) -> TemplateTraits:
    """Return the traits of a template; `render` takes messages and raises ModelError where the template does."""

    def shows(needle: str, messages: list[dict[str, Any]], **names: Any) -> bool:
        try:
            return needle in render(messages, **names)
        except ModelError:
            return False

    takes_text = shows(_WORDS, [{"role": "user", "content": _WORDS}])
    takes_parts = not takes_text and shows(_WORDS, [{"role": "user", "content": [{"type": "text", "text": _WORDS}]}])
    return TemplateTraits(shows_words=takes_text or takes_parts, wants_parts=takes_parts)
