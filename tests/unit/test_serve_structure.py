"""Structured output from the request to the grammar that travels with it, in the words of every kind of client."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from serve_fake import DEADLINE, END, ByteVocabulary, FakeEngine, make_service, serving
from test_serve_tools import QWEN

from mpispec.grammars.compiler import Compiler
from mpispec.grammars.library import GrammarError
from mpispec.grammars.walk import Walk
from mpispec.serve.text.answer_grammar import Frame, grammar_text
from mpispec.serve.text.call_formats import FORMATS, HERMES, CallFormat
from mpispec.serve.text.call_reader import CallReader
from mpispec.serve.text.dialogue import Dialogue
from mpispec.serve.text.structure import Structure
from mpispec.serve.text.turn import Turn

pytestmark = pytest.mark.unit

CHAT, TEXT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
TOOL = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
OTHER = {"name": 'say "hi" ü', "parameters": {"properties": {"x": {"const": 1}}, "required": ["x"]}}
TOOLS = [{"type": "function", "function": each} for each in (TOOL, OTHER)]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
THINK = ("<think>", "</think>")


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    return Compiler(ByteVocabulary)


@pytest.fixture(scope="module")
def engine() -> Iterator[FakeEngine]:
    engine = FakeEngine(context=4096)
    yield engine
    engine.join()


@pytest.fixture(scope="module")
def client(engine: FakeEngine) -> Iterator[httpx.Client]:
    with serving(engine) as url, httpx.Client(base_url=url, timeout=DEADLINE, trust_env=False) as client:
        yield client


def matches(walk: Walk, text: str, controls: dict[str, int] | None = None) -> bool:
    """Return whether a whole text matches; control tokens may be spelled in it."""
    tokens: list[int] = []
    while text:
        mark = next((mark for mark in controls or {} if text.startswith(mark)), None)
        tokens += [controls[mark]] if mark is not None and controls is not None else text[0].encode()
        text = text[len(mark or text[0]) :]
    return walk.go(0, tokens) and walk.is_complete


def grammar_of(engine: FakeEngine, client: httpx.Client, path: str, body: dict[str, Any]) -> str:
    """Return the grammar that a request is submitted with."""
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return engine.generations[-1].sampling.grammar


def chat(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hi"}], **fields}


NAMED = {"name": "x", "schema": SCHEMA, "strict": True}
JSON_WAYS: list[tuple[str, dict[str, Any]]] = [
    (CHAT, chat(response_format={"type": "json_schema", "json_schema": NAMED})),
    (CHAT, chat(response_format={"type": "json_object", "schema": SCHEMA})),
    (CHAT, chat(response_format={"type": "json_schema", "schema": SCHEMA})),
    (CHAT, chat(guided_json=SCHEMA)),
    (CHAT, chat(guided_json=json.dumps(SCHEMA), guided_regex="", guided_choice=[], grammar="", json_schema={})),
    (CHAT, chat(structured_outputs={"json": SCHEMA, "regex": None, "disable_fallback": True})),
    (CHAT, chat(json_schema=SCHEMA)),
    (TEXT, {"prompt": "hi", "guided_json": SCHEMA}),
    (RESPONSES, {"input": "hi", "text": {"format": {"type": "json_schema", **NAMED}}}),
    (MESSAGES, {**chat(max_tokens=9), "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}),
    (MESSAGES, {**chat(max_tokens=9), "output_format": {"type": "json_schema", "schema": SCHEMA}}),
]


@pytest.mark.parametrize(("path", "body"), JSON_WAYS)
def test_a_schema_is_the_same_in_everybodys_words(
    engine: FakeEngine, client: httpx.Client, compiler: Compiler, path: str, body: dict[str, Any]
) -> None:
    text = grammar_of(engine, client, path, body)
    walk = compiler.walk(text)
    assert matches(walk, '{"a": 12}') and matches(walk, '{"a":1\n}')
    assert not matches(walk, '{"a": "x"}') and not matches(walk, '{"a": 12, "b": 1}') and not matches(walk, "{}")


@pytest.mark.parametrize(
    ("fields", "right", "wrong"),
    [
        ({"response_format": {"type": "json_object"}}, '{"b": [1, {}]}', "[1]"),
        ({"structured_outputs": {"json_object": True}}, "{}", "1"),
        ({"guided_json": {}}, "[1]", "x"),
        ({"guided_regex": r"\d{2}/x+"}, "12/xx", "1/x"),
        ({"structured_outputs": {"regex": "a|bc"}}, "bc", "b"),
        ({"guided_choice": ["ja 😀", 'no\n"q"', "a/b"]}, 'no\n"q"', "no"),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, "no", "maybe"),
        ({"guided_grammar": 'root ::= "a" [0-9]+'}, "a12", "a"),
        ({"grammar": 'root ::= item ("," item)*\nitem ::= "x" | "y"'}, "x,y", "x,"),
        ({"structured_outputs": {"grammar": 'start: "x" y\ny: "b"+'}}, "xbb", "x"),
    ],
)
def test_other_constraints(
    engine: FakeEngine, client: httpx.Client, compiler: Compiler, fields: dict[str, Any], right: str, wrong: str
) -> None:
    text = grammar_of(engine, client, CHAT, chat(**fields))
    assert matches(compiler.walk(text), right) and not matches(compiler.walk(text), wrong)


@pytest.mark.parametrize(
    "fields",
    [{}, {"response_format": {"type": "text"}}, {"structured_outputs": {}}, {"grammar": "", "guided_choice": []}],
)
def test_what_constrains_nothing_has_no_grammar(
    engine: FakeEngine, client: httpx.Client, fields: dict[str, Any]
) -> None:
    assert grammar_of(engine, client, CHAT, chat(**fields)) == ""


def test_grammars_are_no_way_of_drawing(client: httpx.Client) -> None:
    assert "grammar" not in client.get("/v1/models").text


def test_two_constraints_are_one_too_many(client: httpx.Client) -> None:
    answer = client.post(CHAT, json=chat(guided_regex="a", response_format={"type": "json_object"}))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "guided_regex"


def test_a_schema_that_is_too_long_is_refused_and_the_server_goes_on(client: httpx.Client) -> None:
    enum = [f"{number:064d}" for number in range(6000)]
    answer = client.post(CHAT, json=chat(guided_json={"enum": enum}))
    assert answer.status_code == 400 and "bytes of grammar" in answer.json()["error"]["message"]
    assert client.post(CHAT, json=chat()).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("words", "finish"), [('{"a": 1}', "stop"), ('{"a": ', "length"), ("9" * 600, "stop")])
def test_json_that_ended_too_soon_was_cut(client: httpx.Client, stream: bool, words: str, finish: str) -> None:
    """The fake engine keeps to no grammar, as one that has become too complex."""
    body = {"messages": [{"role": "user", "content": f"write:{words}"}], "response_format": {"type": "json_object"}}
    text = client.post(CHAT, json={**body, "stream": stream, "cut_repeats": False}).text
    assert f'"finish_reason":"{finish}"' in text


@pytest.mark.parametrize("wanted", [{"guided_regex": "a{9}"}, {"grammar": 'root ::= "aaaa"'}])
def test_other_text_that_ended_too_soon_has_stopped(client: httpx.Client, wanted: dict[str, str]) -> None:
    answer = client.post(CHAT, json={"messages": [{"role": "user", "content": "write:aa"}], **wanted}).json()
    assert [choice["finish_reason"] for choice in answer["choices"]] == ["stop"]


def test_an_object_of_too_many_optional_properties_is_refused(client: httpx.Client) -> None:
    properties = {f"property_{number}": {"type": "string"} for number in range(600)}
    schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    answer = client.post(CHAT, json=chat(guided_json=schema))
    assert answer.status_code == 400 and "items" in answer.json()["error"]["message"]
    assert client.post(CHAT, json=chat(guided_json={**schema, "required": [*properties]})).status_code == 200


# -- calls --------------------------------------------------------------------------------------------------------

FORCED: list[tuple[str, dict[str, Any], int]] = [
    (CHAT, chat(tools=TOOLS, tool_choice="required"), 2),
    (CHAT, chat(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "weather"}}), 1),
    (
        CHAT,
        chat(
            tools=TOOLS,
            tool_choice={
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "weather"}}]},
            },
        ),
        1,
    ),
    (RESPONSES, {"input": "hi", "tools": [{"type": "function", **TOOL}], "tool_choice": "required"}, 1),
    (
        RESPONSES,
        {
            "input": "hi",
            "tools": [{"type": "function", **each} for each in (TOOL, OTHER)],
            "tool_choice": {"type": "function", "name": "weather"},
        },
        1,
    ),
    (MESSAGES, {**chat(max_tokens=9), "tools": [{"name": "weather"}], "tool_choice": {"type": "any"}}, 1),
    (
        MESSAGES,
        {**chat(max_tokens=9), "tools": [{"name": "weather"}, {"name": "b"}], "tool_choice": {"type": "any"}},
        2,
    ),
    (
        MESSAGES,
        {
            **chat(max_tokens=9),
            "tools": [{"name": "weather"}, {"name": "b"}],
            "tool_choice": {"type": "tool", "name": "weather"},
        },
        1,
    ),
]


@pytest.mark.parametrize(("path", "body", "num_tools"), FORCED)
def test_a_call_is_forced(
    engine: FakeEngine, client: httpx.Client, compiler: Compiler, path: str, body: dict[str, Any], num_tools: int
) -> None:
    text = grammar_of(engine, client, path, body)
    assert text.count("arguments_") == 2 * num_tools
    empty = CALL.replace('{"city": "Oslo"}', "{}")
    assert matches(compiler.walk(text), empty) and not matches(compiler.walk(text), "Hello!")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat(tool_choice="required")),
        (CHAT, chat(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "x"}})),
        (MESSAGES, {**chat(max_tokens=9), "tools": [{"name": "a"}], "tool_choice": {"type": "tool", "name": "b"}}),
        (RESPONSES, {"input": "hi", "tool_choice": "required"}),
    ],
)
def test_a_call_of_nothing_cannot_be_forced(client: httpx.Client, path: str, body: dict[str, Any]) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == 400 and "tool" in answer.text


def test_the_answer_ends_with_the_forced_call(engine: FakeEngine, client: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": f"write:{CALL}{CALL} and so on"}], "tools": TOOLS}
    choice = client.post(CHAT, json=body | {"tool_choice": "required"}).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls" and len(choice["message"]["tool_calls"]) == 1


def written(form: CallFormat, source: str, function: dict[str, Any], arguments: str) -> str:
    before, between, after = form.written(source)
    return before + json.dumps(function["name"])[1:-1] + between + arguments + after


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.begins[0])
@pytest.mark.parametrize("has_controls", [False, True])
def test_what_is_forced_is_what_is_read(compiler: Compiler, form: CallFormat, has_controls: bool) -> None:
    """In every spelling of every family, marks being text or control tokens."""
    for hint, *_ in form.spellings:
        source = f"{form.hints[0]} {hint}"
        controls = {form.begins[0]: 256} if has_controls else {}
        frame = Frame(form=form, template=source, tools=TOOLS, must_call=True, controls=controls)
        text = grammar_text(None, frame)
        compiler.check(text)
        answer = written(form, source, TOOL, '{"city": "Oslo"}')
        assert matches(compiler.walk(text), answer, controls)
        assert not matches(compiler.walk(text), answer.replace("weather", "whether"), controls)
        reader, turn = CallReader(form, {"weather"}, 1), Turn()
        for piece in [*reader.push(answer), *reader.flush()]:
            turn.add(piece)
        assert [(call.name, json.loads(call.arguments)) for call in turn.calls] == [("weather", {"city": "Oslo"})]
        assert not turn.text.strip() and reader.is_over


def test_names_with_quotes_and_schemas_without_a_type(compiler: Compiler) -> None:
    text = grammar_text(None, Frame(tools=TOOLS, must_call=True))
    walk = compiler.walk(text)
    assert matches(walk, written(HERMES, "", OTHER, '{"x": 1}'))
    assert not matches(walk, written(HERMES, "", OTHER, '{"x": 2}'))
    assert not matches(walk, written(HERMES, "", OTHER, "1"))


def test_schemas_of_tools_are_kept_to_as_far_as_they_are_understood(compiler: Compiler) -> None:
    odd = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string", "format": "odd"}}}}
    text = grammar_text(None, Frame(tools=[{"type": "function", "function": odd}], must_call=True))
    compiler.check(text)
    strict = grammar_text(
        None, Frame(tools=[{"type": "function", "function": {**odd, "strict": True}}], must_call=True)
    )
    assert strict is not None
    with pytest.raises(GrammarError, match="odd"):
        compiler.check(strict)


def test_a_structured_answer_or_a_call_where_both_are_offered(compiler: Compiler) -> None:
    text = grammar_text(Structure("json", SCHEMA, ""), Frame(tools=TOOLS[:1]))
    walk = compiler.walk(text)
    assert matches(walk, '{"a": 1}') and matches(walk, CALL) and not matches(walk, '{"a": 1}' + CALL)


# -- tools that take a text -----------------------------------------------------------------------------------------

EDIT = """\
start: begin_patch hunk+ end_patch
begin_patch: "*** Begin Patch" LF
end_patch: "*** End Patch" LF?
hunk: "*** Add File: " filename LF add_line+ | "*** Delete File: " filename LF
filename: /(.+)/
add_line: "+" /(.*)/ LF -> line
%import common.LF
"""
"""A part of the grammar that Codex has its models write patches in."""
EDITED = '*** Begin Patch\n*** Add File: "a".py\n+x = "\\n</tool_call>"\n+}\n*** End Patch\n'
PATCH = {"name": "patch", "description": "Edit files.", "parameters": {}}
PATCHING = Frame(
    tools=[{"type": "function", "function": PATCH}, TOOLS[0]], texts={"patch": Structure("grammar", EDIT, "")}
)


def read(form: CallFormat, answer: str) -> tuple[str, list[tuple[str, Any]]]:
    """Return what an answer says and calls, read in portions."""
    reader, turn = CallReader(form, {"weather", "patch"}, None, {"patch"}), Turn()
    for start in range(0, len(answer), 7):
        for piece in reader.push(answer[start : start + 7]):
            turn.add(piece)
    for piece in reader.flush():
        turn.add(piece)
    return turn.text, [(call.name, json.loads(call.arguments)) for call in turn.calls]


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.begins[0])
@pytest.mark.parametrize("has_controls", [False, True])
@pytest.mark.parametrize("must_call", [False, True])
def test_a_text_that_a_tool_takes_keeps_to_its_grammar(
    compiler: Compiler, form: CallFormat, has_controls: bool, must_call: bool
) -> None:
    """In every family, forced or not; before and after it there may be what there may be without a grammar."""
    for hint, *_ in form.spellings:
        source = f"{form.hints[0]} {hint}"
        controls = {form.begins[0]: 256} if has_controls else {}
        frame = replace(PATCHING, form=form, template=source, must_call=must_call, controls=controls)
        walk = compiler.walk(grammar_text(None, frame))
        call = form.opened(source) + '{"name": "patch"}\n'
        weather = written(form, source, TOOL, '{"city": "Oslo"}')
        assert matches(walk, call + EDITED, controls) and matches(walk, weather, controls)
        assert not matches(walk, call + EDITED + "And so on.", controls)
        assert not matches(walk, call + EDITED + call + EDITED, controls)
        assert not matches(walk, call + "+x\n", controls) and not matches(walk, call, controls)
        assert matches(walk, "Done.", controls) is not must_call
        assert matches(walk, weather + call + EDITED, controls) is not must_call
        assert read(form, call + EDITED) == ("", [("patch", {"input": EDITED})])
        assert read(form, weather + call + EDITED)[1] == [("weather", {"city": "Oslo"}), ("patch", {"input": EDITED})]
        if not form.is_bare:
            assert matches(walk, "Look: {}\n" + call + EDITED, controls) is not must_call
            assert read(form, "Look: {}\n" + call + EDITED) == ("Look: {}", [("patch", {"input": EDITED})])


@pytest.mark.parametrize("controls", [{}, {"<think>": 256}, {"</think>": 256}])
def test_a_thought_before_a_text_that_a_tool_takes(compiler: Compiler, controls: dict[str, int]) -> None:
    walk = compiler.walk(grammar_text(None, replace(PATCHING, thoughts=THINK, controls=controls)))
    call = f'<tool_call>\n{{"name": "patch"}}\n{EDITED}'
    for answer in (call, f"Look.\n{call}", "Done."):
        assert matches(walk, f"<think>A <tool_call> {{ is due.</think>\n\n{answer}", controls)
        assert matches(walk, answer, controls)
    assert not matches(walk, "<think>So</think>\n<tool_call>\n", controls)


def test_an_empty_text_is_read() -> None:
    assert read(HERMES, '<tool_call>\n{"name": "patch"}') == ("", [("patch", {"input": ""})])
    assert read(HERMES, '<tool_call>\n{"name": "weather"}') == ("", [("weather", {})])


def customs(**given: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return requests that offer a tool of a grammar, in the words of chats and of responses."""
    chats = {"type": "custom", "custom": {"name": "patch", "format": {"type": "grammar", "grammar": given}}}
    responses = {"type": "custom", "name": "patch", "format": {"type": "grammar", **given}}
    return chat(tools=[chats, TOOLS[0]]), {"input": "hi", "tools": [responses]}


@pytest.mark.parametrize("choice", ["auto", "required", "one"])
@pytest.mark.parametrize(("syntax", "definition"), [("regex", r"[ab]+\n"), ("lark", 'start: /[ab]+/ "\\n"')])
def test_a_grammar_of_a_tool_is_enforced_whoever_asks(
    engine: FakeEngine, client: httpx.Client, compiler: Compiler, syntax: str, definition: str, choice: str
) -> None:
    for path, body in zip((CHAT, RESPONSES), customs(syntax=syntax, definition=definition), strict=True):
        one = {"type": "custom", "custom": {"name": "patch"}} if path == CHAT else {"type": "custom", "name": "patch"}
        walk = compiler.walk(
            grammar_of(engine, client, path, body | {"tool_choice": one if choice == "one" else choice})
        )
        call = '<tool_call>\n{"name": "patch"}\n'
        assert matches(walk, call + "ab\n") and not matches(walk, call + "abc\n")
        assert matches(walk, "Hello!") is (choice == "auto")
        assert grammar_of(engine, client, path, body | {"tool_choice": "none"}) == ""


@pytest.mark.parametrize(
    "given",
    [
        {"syntax": "lark", "definition": "start: ("},
        {"syntax": "lark", "definition": 'begin: "x"'},
        {"syntax": "regex", "definition": "("},
        {"syntax": "gbnf", "definition": 'root ::= "x"'},
        {"syntax": "lark"},
    ],
)
def test_a_grammar_that_a_tool_cannot_have_is_refused_with_the_reason(
    client: httpx.Client, given: dict[str, str]
) -> None:
    for path, body in zip((CHAT, RESPONSES), customs(**given), strict=True):
        error = client.post(path, json=body).json()["error"]
        assert error["param"] == "tools" and len(error["message"]) > 40


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_calls_a_tool_with_a_text(client: httpx.Client, stream: bool) -> None:
    """Streamed, the text comes when it is complete; a call of a function next to it is as ever."""
    body = customs(syntax="regex", definition="(?s:.*)")[0]
    words = f'write:{CALL}<tool_call>\n{{"name": "patch"}}\na "b"\n'
    answer = client.post(CHAT, json=body | {"messages": [{"role": "user", "content": words}], "stream": stream})
    if stream:
        chunks = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        deltas = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", ())]
        first, second = ([each for each in deltas if each["index"] == index] for index in (0, 1))
        assert "".join(each["function"]["arguments"] for each in first) == '{"city": "Oslo"}'
        assert [each["custom"] for each in second] == [{"name": "patch", "input": ""}, {"input": 'a "b"\n'}]
    else:
        choice = answer.json()["choices"][0]
        assert [call["type"] for call in choice["message"]["tool_calls"]] == ["function", "custom"]
        assert choice["message"]["tool_calls"][1]["custom"] == {"name": "patch", "input": 'a "b"\n'}
        assert choice["finish_reason"] == "tool_calls"


def test_a_chat_remembers_calls_with_a_text(engine: FakeEngine, client: httpx.Client) -> None:
    call = {"id": "c", "type": "custom", "custom": {"name": "patch", "input": "+b"}}
    said = [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call]}]
    said.append({"role": "tool", "tool_call_id": "c", "content": "Done."})
    assert client.post(CHAT, json={"messages": said}).status_code == 200
    prompt = bytes(token for token in engine.generations[-1].prompt if token < 256).decode()
    assert '{"name": "patch", "arguments": {"input": "+b"}}' in prompt
    said[1] = {"role": "assistant", "tool_calls": [{"id": "c", "type": "custom"}]}
    assert client.post(CHAT, json={"messages": said}).status_code == 400


# -- thoughts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("controls", [{}, {"<think>": 256}, {"</think>": 256}])
@pytest.mark.parametrize("kind", ["json", "regex", "choice", "grammar"])
def test_a_thought_is_free_and_the_answer_is_not(compiler: Compiler, kind: Any, controls: dict[str, int]) -> None:
    value = {"json": {"const": "x"}, "regex": '"x"', "choice": ['"x"'], "grammar": 'root ::= "\\"x\\""'}[kind]
    structure = Structure(kind, value, "")
    for is_thinking, begin in ((True, ""), (False, "<think>")):
        text = grammar_text(structure, Frame(thoughts=THINK, is_thinking=is_thinking, controls=controls))
        walk = compiler.walk(text)
        assert matches(walk, begin + ' I say {"x": 1}.\n</think>\n\n"x"', controls)
        assert not matches(walk, begin + ' I say {"x": 1}.\n</think>\n\n"y"', controls)
        assert matches(walk, '"x"', controls) is not is_thinking


def test_the_frame_knows_where_a_prompt_ends() -> None:
    prompts = make_service(FakeEngine(), template=QWEN).prompts
    said: Any = [{"role": "user", "content": "hi"}]
    frame = prompts.prompt(Dialogue(said)).frame
    assert (frame.thoughts, frame.is_thinking, frame.must_call) == (THINK, True, False)
    frame = prompts.prompt(Dialogue(said, names={"enable_thinking": False}, tools=TOOLS, forced=("weather",))).frame
    assert (frame.thoughts, frame.is_thinking, frame.must_call) == (THINK, False, True)
    assert [tool["function"]["name"] for tool in frame.tools] == ["weather"]


def test_noise_is_refused_or_compiled_and_nothing_else(compiler: Compiler) -> None:
    """Broken schemas and grammars of all kinds: the error is ours."""
    rng = random.Random(5)
    text = json.dumps(SCHEMA) + 'root ::= "a" | [0-9]{2,} ($ref) "x"? .* \\u{12}'
    for _ in range(300):
        start = rng.randrange(len(text))
        piece = text[start : start + rng.randrange(1, 40)]
        kind = rng.choice(["regex", "choice", "grammar", "json"])
        value: Any = {"choice": [piece], "json": {rng.choice(["type", "enum", "$ref", "pattern", "allOf"]): piece}}
        answer = refusal(compiler, Structure(kind, value.get(kind, piece), ""))
        assert answer is None or "\n" not in answer


def refusal(compiler: Compiler, structure: Structure) -> str | None:
    """Return why a structure is refused, None if it is not."""
    try:
        found = grammar_text(structure, Frame())
        assert found is not None
        compiler.check(found)
    except GrammarError as error:
        return str(error)
    return None


def test_the_end_token_is_never_part_of_a_text(compiler: Compiler) -> None:
    text = grammar_text(Structure("regex", "a+", ""), Frame())
    walk = compiler.walk(text)
    assert not walk.go(0, [ord("a"), END]) and walk.tokens == [ord("a")] and walk.is_complete and walk.allows(END)
