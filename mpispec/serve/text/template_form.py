"""Messages and tools in the form that a model's chat template takes. Pure."""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Sequence
from typing import Any

from mpispec.models.template_traits import TemplateTraits
from mpispec.serve.text.call_formats import CallFormat
from mpispec.serve.text.dialogue import ChatMessage

_ASKING = """\
You may call functions to help the user. These are their signatures, one a line, within <tools></tools>:
<tools>
{tools}
</tools>
To call a function, answer with a JSON object of its name and arguments within <tool_call></tool_call>:
<tool_call>
{{"name": <function name>, "arguments": <object of arguments>}}
</tool_call>"""
"""The format of Hermes and Qwen, in which many models have been trained whose template does not show tools."""
_LETTERS = string.ascii_letters + string.digits


def in_words(messages: Sequence[ChatMessage], tools: Sequence[dict[str, Any]]) -> list[ChatMessage]:
    """Return messages for a template that shows no tools: signatures, calls and results become text."""
    found: list[ChatMessage] = []
    # Results in a row share a message, also with what the user says then: in many templates roles must take turns.
    results: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            results.append(f"<tool_response>\n{message['content']}\n</tool_response>")
            continue
        if results and message["role"] == "user":
            found.append({**message, "content": "\n".join([*results, message["content"]])})
        else:
            found += [{"role": "user", "content": "\n".join(results)}] if results else []
            found.append(_spelled(message))
        results = []
    if results:
        found.append({"role": "user", "content": "\n".join(results)})
    if tools:
        asking = _ASKING.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))
        has_system = bool(found) and found[0]["role"] == "system"
        given = [found.pop(0)["content"]] if has_system else []
        found.insert(0, {"role": "system", "content": "\n\n".join([*given, asking])})
    return found


def _spelled(message: ChatMessage) -> ChatMessage:
    """Return a message whose calls are part of its content."""
    if "tool_calls" not in message:
        return message
    lines = [message["content"]] if message["content"] else []
    for call in message["tool_calls"]:
        function = call["function"]
        written = {"name": function["name"], "arguments": _as_object(function["arguments"])}
        lines.append(f"<tool_call>\n{json.dumps(written, ensure_ascii=False)}\n</tool_call>")
    spelled: ChatMessage = {**message, "content": "\n".join(lines)}
    del spelled["tool_calls"]
    return spelled


def without_system(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Return messages for a template that shows none of the system: its words stand before the next user's."""
    found: list[ChatMessage] = []
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "system":
            waiting.append(message["content"])
        elif waiting and message["role"] == "user":
            found.append({**message, "content": "\n\n".join([*waiting, message["content"]])})
            waiting = []
        else:
            found.append(message)
    if waiting:
        found.append({"role": "user", "content": "\n\n".join(waiting)})
    return found


def with_one_system(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Return messages for a template that takes one of the system, at the beginning: later ones are a user's words."""
    first = next((index for index, message in enumerate(messages) if message["role"] != "system"), len(messages))
    words = [message["content"] for message in messages[:first]]
    found: list[ChatMessage] = [{**messages[0], "content": "\n\n".join(words)}] if words else []
    return found + [{**each, "role": "user"} if each["role"] == "system" else each for each in messages[first:]]


def in_turns(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Return messages for a template in which roles must take turns: what one says in a row is one message."""
    found: list[ChatMessage] = []
    for message in messages:
        last = found[-1] if found else message
        is_more = bool(found) and last["role"] == message["role"] in ("user", "assistant")
        if is_more and "tool_calls" not in last:
            joined = "\n\n".join(filter(None, (last["content"], message["content"])))
            found[-1] = {**last, **message, "content": joined}
        else:
            found.append(message)
    return found


def with_calls(messages: Sequence[ChatMessage], traits: TemplateTraits, form: CallFormat) -> list[ChatMessage]:
    """Return messages for a template that shows tools: arguments in its form, identifiers it takes, named results."""
    names: dict[str, str] = {}
    found: list[ChatMessage] = []
    for message in messages:
        if "tool_calls" in message:
            names |= {call["id"]: call["function"]["name"] for call in message["tool_calls"]}
            calls = [_fitted(call, traits.wants_objects, form.ident_length) for call in message["tool_calls"]]
            found.append({**message, "tool_calls": calls})
        elif message["role"] == "tool":
            ident = message.get("tool_call_id", "")
            result: ChatMessage = {**message, "tool_call_id": _ident(ident, form.ident_length)}
            if ident in names:
                result.setdefault("name", names[ident])
            found.append(result)
        else:
            found.append(message)
    return found


def _fitted(call: dict[str, Any], wants_objects: bool, ident_length: int) -> dict[str, Any]:
    function = call["function"]
    arguments = _as_object(function["arguments"]) if wants_objects else function["arguments"]
    return {**call, "id": _ident(call["id"], ident_length), "function": {**function, "arguments": arguments}}


def _as_object(arguments: str) -> Any:
    """Return arguments as what their JSON means; text that is no JSON stays text."""
    try:
        return json.loads(arguments) if arguments else {}
    except ValueError:
        return arguments


def _ident(given: str, length: int) -> str:
    """Return an identifier of `length` letters and digits, always the same for a given one; 0 takes any."""
    if not length or (len(given) == length and all(letter in _LETTERS for letter in given)):
        return given
    number = int.from_bytes(hashlib.blake2b(given.encode("utf-8", "replace"), digest_size=16).digest(), "big")
    return "".join(_LETTERS[number // len(_LETTERS) ** place % len(_LETTERS)] for place in range(length))


def in_parts(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message whose content is a list of parts."""
    return {**message, "content": [{"type": "text", "text": message["content"]}]}
