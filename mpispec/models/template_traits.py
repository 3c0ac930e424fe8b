"""What a chat template takes, found out by rendering probes: its source does not say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mpispec.models.errors import ModelError

_WORDS = "Probing words"
_IDENTS = ("probe0001", "probe0002")
"""Mistral's templates refuse identifiers of another length."""
_USER = {"role": "user", "content": _WORDS}
_TOOL = {
    "type": "function",
    "function": {
        "name": "probe_tool",
        "description": "Probes.",
        "parameters": {"type": "object", "properties": {"probe_key": {"type": "string", "description": "Any."}}},
    },
}


@dataclass(frozen=True, slots=True)
class TemplateTraits:
    """How messages must be for a template to show them."""

    shows_words: bool = True
    """Whether it shows what a user says, in one of the forms."""
    wants_parts: bool = False
    """Whether content must be a list of parts; templates of models that can also see loop over it."""
    takes_system: bool = True
    """Whether it shows a message of the system; some refuse it."""
    takes_later_system: bool = True
    """Whether it shows further messages of the system, which agents send; some refuse them."""
    takes_same_role: bool = True
    """Whether two messages of a user may follow each other; in some roles must take turns."""
    takes_tools: bool = False
    """Whether it shows tools, calls and their results."""
    wants_objects: bool = True
    """Whether the arguments of a call must be an object and not JSON text."""
    takes_several_calls: bool = True
    """Whether a message may hold more than one call."""


class _Probe:
    """Asks a template for what it shows."""

    def __init__(self, render: Callable[..., str], wants_parts: bool) -> None:
        self._render = render
        self._wants_parts = wants_parts

    def shows(self, needles: tuple[str, ...], *messages: dict[str, Any], **names: Any) -> bool:
        """Return whether all needles are in what the template makes of messages."""
        fitted = [{**each, "content": self._content(each["content"])} for each in messages]
        try:
            text = self._render(fitted, **names)
        except ModelError:
            return False
        return all(needle in text for needle in needles)

    def shows_calls(self, wants_objects: bool, num_calls: int = 1) -> bool:
        """Return whether it shows calls, their arguments as JSON, and their results."""
        arguments: Any = {"probe_key": "probe value"} if wants_objects else '{"probe_key": "probe value"}'
        needles, calls, results = ['"probe_key": "probe value"'], [], []
        for ident in _IDENTS[:num_calls]:
            name, found = f"tool_{ident}", f"found by {ident}"
            needles += [name, found]
            calls.append({"id": ident, "type": "function", "function": {"name": name, "arguments": arguments}})
            results.append({"role": "tool", "tool_call_id": ident, "name": name, "content": found})
        asked = {"role": "assistant", "content": "", "tool_calls": calls}
        return self.shows(tuple(needles), _USER, asked, *results, tools=[_TOOL])

    def _content(self, text: str) -> Any:
        return [{"type": "text", "text": text}] if self._wants_parts else text


def probe(render: Callable[..., str]) -> TemplateTraits:
    """Return the traits of a template; `render` takes messages and raises ModelError where the template does."""
    takes_text = _Probe(render, wants_parts=False).shows((_WORDS,), _USER)
    wants_parts = not takes_text and _Probe(render, wants_parts=True).shows((_WORDS,), _USER)
    if not takes_text and not wants_parts:
        return TemplateTraits(shows_words=False)
    asked = _Probe(render, wants_parts)
    wants_objects = asked.shows_calls(wants_objects=True)
    shows_calls = wants_objects or asked.shows_calls(wants_objects=False)
    rules, later = ({"role": "system", "content": text} for text in ("Probing rules", "later rules"))
    return TemplateTraits(
        wants_parts=wants_parts,
        takes_system=asked.shows(("Probing rules", _WORDS), rules, _USER),
        takes_later_system=asked.shows(("Probing rules", "later rules"), rules, _USER, later, _USER),
        takes_same_role=asked.shows((_WORDS, "More words"), _USER, {"role": "user", "content": "More words"}),
        takes_tools=shows_calls and asked.shows(("probe_tool", "probe_key"), _USER, tools=[_TOOL]),
        wants_objects=wants_objects,
        takes_several_calls=asked.shows_calls(wants_objects, num_calls=2),
    )
