"""Tools from the request to the model and back: in the template's own form, or in words, and streamed as deltas."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from serve_fake import DEADLINE, TURNS, ByteVocabulary, FakeEngine, connected, make_service, serving

from mpispec.models.template import ChatTemplate
from mpispec.serve.text.dialogue import ChatMessage, Dialogue
from mpispec.serve.text.prompt import Prompts

pytestmark = pytest.mark.unit

CHAT = "/v1/chat/completions"
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "The weather in a city.", "parameters": PARAMETERS}
TOOLS = [{"type": "function", "function": WEATHER}]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


def call(ident: str, name: str = "weather", arguments: str = '{"city": "Oslo"}') -> dict[str, Any]:
    return {"id": ident, "type": "function", "function": {"name": name, "arguments": arguments}}


HISTORY: list[ChatMessage] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Oslo?"},
    {"role": "assistant", "content": "", "tool_calls": [call("call_1")]},
    {"role": "tool", "tool_call_id": "call_1", "content": "9 C"},
]

# Small templates with the traits of the real ones.
QWEN = (
    "{% if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}</tools>{% endif %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}</tool_call>{% endfor %}'
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% if enable_thinking is not defined %}<think>\n{% endif %}"
    "{% endif %}{# </think> #}"
)
LLAMA = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}[{{ m.role }}]{% if m.tool_calls %}"
    "{% if m.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}"
    "{% set c = m.tool_calls[0].function %}"
    "{{ '{\"name\": \"' + c.name + '\", ' }}{{ '\"parameters\": ' }}{{ c.arguments | tojson }}}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
MISTRAL = (
    "{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}{% endif %}{% for m in messages %}"
    "{% for c in m.tool_calls or [] %}{% if c.id | length != 9 %}{{ raise_exception('nine characters') }}{% endif %}"
    "[TOOL_CALLS]{{ c.function | tojson }}{{ c.id }}{% endfor %}"
    "{% if m.role == 'tool' %}{% if m.tool_call_id | length != 9 %}{{ raise_exception('nine characters') }}{% endif %}"
    "[TOOL_RESULTS]{{ m.tool_call_id }}{{ m.name }}{{ m.content }}{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
DEEPSEEK = (
    "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ '<｜tool▁call▁begin｜>' + c.function.name + '<｜tool▁sep｜>' "
    "+ c.function.arguments }}{% endfor %}{% endfor %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{% endfor %}"
)

ONE_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('system first') }}"
    "{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
)
IN_TURNS = (
    "{% for m in messages %}{% if not loop.first and m.role == messages[loop.index0 - 1].role or m.role == 'system' "
    "and not loop.first %}{{ raise_exception('take turns') }}{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
)


def prompts(template: str) -> Prompts:
    return Prompts(ByteVocabulary(), ChatTemplate(template))


def rendered(template: str, messages: list[ChatMessage], tools: list[dict[str, Any]] = TOOLS) -> str:
    return prompts(template).text(Dialogue(messages, tools=tools))


def test_a_template_that_shows_tools_gets_them_in_its_form() -> None:
    text = rendered(QWEN, HISTORY)
    assert f"<tools>{json.dumps(TOOLS[0])}\n</tools>" in text
    assert '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>[tool]9 C' in text
    assert "<tools>" not in rendered(QWEN, HISTORY, [])


def test_arguments_are_text_where_the_template_wants_text() -> None:
    assert '<｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": "Oslo"}' in rendered(DEEPSEEK, HISTORY)


def test_arguments_that_are_no_json_are_shown_as_they_are() -> None:
    broken = [*HISTORY[:2], {"role": "assistant", "content": "", "tool_calls": [call("x", arguments="{city")]}]
    assert '"arguments": "{city"' in rendered(QWEN, broken)  # type: ignore[arg-type]


def test_identifiers_and_names_are_those_the_template_takes() -> None:
    text = rendered(MISTRAL, HISTORY)
    ident = text.partition("[TOOL_RESULTS]")[2][:9]
    assert ident.isalnum()
    assert text.count(ident) == 2
    assert text.endswith(f"{ident}weather9 C")
    kept = [*HISTORY[:2], {"role": "assistant", "content": "", "tool_calls": [call("abcdefgh1")]}]
    assert "abcdefgh1" in rendered(MISTRAL, kept)  # type: ignore[arg-type]


def test_a_template_that_shows_no_tools_gets_them_in_words() -> None:
    text = rendered(TURNS, [*HISTORY, {"role": "tool", "tool_call_id": "x", "content": "8 C"}])
    system, user, assistant, results, _ = text.split("<|start|>")[1:]
    assert system.startswith("system\nBe brief.\n\n")
    assert json.dumps(TOOLS[0]) in system
    assert user == "user\nOslo?<|end|>"
    assert assistant == f"assistant\n{CALL}<|end|>"
    both = "<tool_response>\n9 C\n</tool_response>\n<tool_response>\n8 C\n</tool_response>"
    assert results == f"user\n{both}<|end|>"


def test_results_share_a_message_with_what_the_user_says_then() -> None:
    text = rendered(TURNS, [*HISTORY, {"role": "user", "content": "And now?"}, {"role": "assistant", "content": "9."}])
    assert text.count("<|start|>user") == 2
    assert "user\n<tool_response>\n9 C\n</tool_response>\nAnd now?<|end|>" in text


def test_calls_in_words_stand_after_what_was_said() -> None:
    said: list[ChatMessage] = [{"role": "user", "content": "x"}, {**HISTORY[2], "content": "Let me look."}]
    assert f"assistant\nLet me look.\n{CALL}<|end|>" in rendered(TURNS, said, [])


def test_words_of_the_system_stand_before_the_users_where_there_is_no_system() -> None:
    assert rendered(NO_SYSTEM, HISTORY[:2], []) == "[user]Be brief.\n\nOslo?"
    assert rendered(NO_SYSTEM, HISTORY[:1], []) == "[user]Be brief."


AGENT: list[ChatMessage] = [
    {"role": "system", "content": "Be brief."},
    {"role": "system", "content": "Know this."},
    {"role": "user", "content": "Here is the folder."},
    {"role": "user", "content": "Oslo?"},
    {"role": "system", "content": "There are agents."},
    {"role": "assistant", "content": "Wait."},
    {"role": "assistant", "content": "", "tool_calls": [call("call_1")]},
]
"""As Codex and Claude Code send it."""


def test_agents_are_understood_by_a_template_that_takes_any_order() -> None:
    text = rendered(TURNS, AGENT[:5], [])
    assert [turn.partition("\n")[0] for turn in text.split("<|start|>")[1:-1]] == ["system"] * 2 + ["user"] * 2 + [
        "system"
    ]


def test_a_later_word_of_the_system_is_a_users_where_the_template_takes_one_of_the_system() -> None:
    text = rendered(ONE_SYSTEM, AGENT[:5], [])
    assert text == "[system]Be brief.\n\nKnow this.[user]Here is the folder.[user]Oslo?[user]There are agents."
    assert rendered(ONE_SYSTEM, AGENT[2:5], []) == "[user]Here is the folder.[user]Oslo?[user]There are agents."


def test_what_one_says_in_a_row_is_one_message_where_roles_take_turns() -> None:
    text = rendered(IN_TURNS, AGENT, [])
    said = "Here is the folder.\n\nOslo?\n\nThere are agents."
    assert text == f"[system]Be brief.\n\nKnow this.[user]{said}[assistant]Wait.\n\n{CALL}"


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with connected(FakeEngine(4096)) as client:
        yield client


@pytest.fixture(scope="module")
def thinker() -> Iterator[httpx.Client]:
    """A server whose model thinks, and takes tools by its own template."""
    engine = FakeEngine(4096)
    turns = TURNS.replace("assistant\n", "assistant\n<think>\n") + "{# </think> #}"
    service = make_service(engine, template=turns)
    with serving(engine, service=service) as url, httpx.Client(base_url=url, timeout=DEADLINE) as client:
        yield client


def ask(client: httpx.Client, written: str, **fields: Any) -> dict[str, Any]:
    """Have a model write something; return the choice, the same whether streamed or not."""
    body = {"messages": [{"role": "user", "content": f"write:{written}"}], **fields}
    answer = client.post(CHAT, json=body)
    assert answer.status_code == 200, answer.text
    whole: dict[str, Any] = answer.json()["choices"][0]
    assert assembled(client.post(CHAT, json={**body, "stream": True})) == without_idents(whole)
    return whole


def without_idents(choice: dict[str, Any]) -> dict[str, Any]:
    message = {name: value for name, value in choice["message"].items() if name != "refusal"}
    if "tool_calls" in message:
        message["tool_calls"] = [{**each, "id": bool(each["id"])} for each in message["tool_calls"]]
    return {"message": message, "finish_reason": choice["finish_reason"]}


def assembled(response: httpx.Response) -> dict[str, Any]:
    """Put a streamed choice together as clients do."""
    message: dict[str, Any] = {"content": ""}
    calls: dict[int, dict[str, Any]] = {}
    finish = None
    for line in response.text.split("\n\n"):
        if not line or line == "data: [DONE]":
            continue
        choice = json.loads(line.removeprefix("data: "))["choices"][0]
        finish = choice["finish_reason"] or finish
        for name, value in choice["delta"].items():
            if name != "tool_calls":
                message[name] = message.get(name, "") + value
        for each in choice["delta"].get("tool_calls", ()):
            known = calls.setdefault(each["index"], {"function": {"arguments": ""}})
            known |= {name: value for name, value in each.items() if name in ("id", "type")}
            known["function"] |= {name: value for name, value in each["function"].items() if name == "name"}
            known["function"]["arguments"] += each["function"]["arguments"]
    if calls:
        message["tool_calls"] = [{**calls[index], "id": bool(calls[index]["id"])} for index in sorted(calls)]
        message["content"] = message["content"] or None
    return {"message": message, "finish_reason": finish}


def test_a_call_is_told_from_text(client: httpx.Client) -> None:
    choice = ask(client, f"Let me look.\n{CALL}", tools=TOOLS, tool_choice="auto")
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let me look."
    [found] = choice["message"]["tool_calls"]
    assert found["id"].startswith("call_")
    assert (found["type"], found["function"]) == ("function", {"name": "weather", "arguments": '{"city": "Oslo"}'})


def test_a_turn_may_hold_several_calls(client: httpx.Client) -> None:
    choice = ask(client, f"{CALL}\n{CALL}", tools=TOOLS)
    first, second = choice["message"]["tool_calls"]
    assert choice["message"]["content"] is None
    assert first["id"] != second["id"]


def test_a_turn_ends_with_its_only_call(client: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": f"write:{CALL}\n{CALL}"}], "tools": TOOLS}
    choice = ask(client, f"{CALL}\n{CALL}", tools=TOOLS, parallel_tool_calls=False)
    assert len(choice["message"]["tool_calls"]) == 1
    assert choice["finish_reason"] == "tool_calls"
    one = client.post(CHAT, json={**body, "parallel_tool_calls": False}).json()["usage"]["completion_tokens"]
    assert one == CALL.index("}}") + 2  # no token beyond the one that ends the call


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tools": []},
        {"tools": TOOLS, "tool_choice": "none"},
        {"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}},
    ],
)
def test_without_tools_to_choose_from_nothing_is_a_call(client: httpx.Client, fields: dict[str, Any]) -> None:
    choice = ask(client, CALL, **fields)
    assert choice == {**choice, "finish_reason": "stop"}
    assert choice["message"] == {"role": "assistant", "content": CALL, "refusal": None}


def test_some_tools_may_be_allowed(client: httpx.Client) -> None:
    allowed = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "weather"}}]}
    choice = ask(client, CALL, tools=TOOLS, tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert choice["finish_reason"] == "tool_calls"


def test_a_call_that_is_cut_by_the_limit_says_so(client: httpx.Client) -> None:
    choice = ask(client, CALL, tools=TOOLS, max_tokens=CALL.index("Oslo"))
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"city": "'


def test_thoughts_are_told_from_words(thinker: httpx.Client) -> None:
    choice = ask(thinker, "Hm.\n</think>\n\nYes.")
    assert choice["message"]["reasoning_content"] == "Hm."
    assert choice["message"]["content"] == "Yes."


def test_thoughts_are_counted(thinker: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": "write:Hm.</think>Yes."}]}
    usage = thinker.post(CHAT, json=body).json()["usage"]
    assert usage["completion_tokens_details"] == {"reasoning_tokens": len("Hm.</think>")}


def test_thoughts_may_stay_in_the_content(thinker: httpx.Client) -> None:
    choice = ask(thinker, "Hm.</think>Yes.", reasoning_format="none")
    assert choice["message"] == {"role": "assistant", "content": "Hm.</think>Yes.", "refusal": None}


def test_a_thought_may_lead_to_a_call(thinker: httpx.Client) -> None:
    choice = ask(thinker, f"I look.</think>\n\n{CALL}", tools=TOOLS)
    assert choice["message"]["reasoning_content"] == "I look."
    assert choice["message"]["content"] is None
    assert choice["finish_reason"] == "tool_calls"


def test_a_model_that_may_call_once_is_stopped_after_its_call() -> None:
    reader = prompts(LLAMA).prompt(Dialogue(HISTORY[:2], tools=TOOLS)).new_reader()
    reader.push('{"name": "weather", "parameters": {"city": "Oslo"}}')
    assert reader.is_over


def test_marks_that_are_control_tokens_are_shown() -> None:
    class Marked(ByteVocabulary):
        def tokenize(self, text: str, special: bool, begin: bool = True) -> list[int]:
            return [300] if special and text == "[TOOL_CALLS]" else super().tokenize(text, special)

    made = Prompts(Marked(), ChatTemplate(MISTRAL))
    assert made.prompt(Dialogue(HISTORY[:2], tools=TOOLS)).shown == {300}
    assert made.prompt(Dialogue(HISTORY[:2])).shown == frozenset()
