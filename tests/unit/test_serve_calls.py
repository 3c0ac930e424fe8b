"""Calls of tools and thoughts are found in what each model family writes, in whatever portions it comes."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from mpispec.serve.text.call_formats import FORMATS, HERMES, CallFormat, format_of, thoughts_of
from mpispec.serve.text.call_reader import CallReader
from mpispec.serve.text.thought_reader import ThoughtReader
from mpispec.serve.text.turn import Argued, Called, Piece, PlainReader, Reader, Said, Thought, Turn, joined

pytestmark = pytest.mark.unit

MISTRAL, DEEPSEEK, GRANITE, _, LLAMA = FORMATS
NAMES = {"weather", "now"}
OSLO = '{"city": "Oslo"}'
CALL = '{"name": "weather", "arguments": {"city": "Oslo"}}'
NOW = '{"name": "now", "arguments": {}}'
LLAMA_CALL = CALL.replace("arguments", "parameters")


def read(reader: Reader, text: str, seed: int = 0) -> Turn:
    """Return the turn that a reader makes of a text in random portions."""
    portions = random.Random(seed)
    pieces: list[Piece] = []
    while text:
        size = portions.randint(1, 9)
        pieces += reader.push(text[:size])
        text = text[size:]
    pieces += reader.flush()
    turn = Turn()
    for piece in pieces:
        turn.add(piece)
    return turn


def calls(turn: Turn) -> list[tuple[str, object]]:
    return [(call.name, json.loads(call.arguments)) for call in turn.calls]


ONE = [("weather", {"city": "Oslo"})]
TWO = [*ONE, ("now", {})]
DEEPSEEK_R1 = (
    f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{OSLO}\n```<｜tool▁call▁end｜>\n"
    "<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
)
DEEPSEEK_V31 = (
    f"Hm.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{OSLO}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
)
WRITTEN: list[tuple[CallFormat, str, str, list[tuple[str, object]]]] = [
    (HERMES, f"<tool_call>\n{CALL}\n</tool_call>", "", ONE),
    (HERMES, f"Let me look.\n\n<tool_call>{CALL}</tool_call>\n", "Let me look.", ONE),
    (HERMES, f'<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{{"name": "now"}}\n</tool_call>', "", TWO),
    (HERMES, f"<tool_call>[{CALL}, {NOW}]</tool_call>", "", TWO),
    (HERMES, f"<tool_call>{CALL}", "", ONE),
    (HERMES, f"<tool_call>{CALL}</tool_call>\nDone.", "Done.", ONE),
    (HERMES, '<tool_call>{"arguments": {"city": "Oslo"}, "name": "weather"}</tool_call>', "", ONE),
    (HERMES, '<tool_call>{"name": "weather", "arguments": "{\\"city\\": \\"Oslo\\"}"}</tool_call>', "", ONE),
    (HERMES, '<tool_call>{"name": "weather", "arguments": null}</tool_call>', "", [("weather", {})]),
    (HERMES, '<tool_call>{"name": "a", "arguments": {"b": "}]{\\"</tool_call>"}}</tool_call>', "",
     [("a", {"b": '}]{"</tool_call>'})]),
    (MISTRAL, f"[TOOL_CALLS][{CALL}]", "", ONE),
    (MISTRAL, f'[TOOL_CALLS] [{CALL[:-1]}, "id": "abcdefghi"}}, {NOW}]</s>', "", TWO),
    (MISTRAL, f"[TOOL_CALLS]weather[ARGS]{OSLO}", "", ONE),
    (MISTRAL, f"Sure.[TOOL_CALLS]weather[CALL_ID]abcdefghi[ARGS]{OSLO}[TOOL_CALLS]now[ARGS]{{}}", "Sure.", TWO),
    (DEEPSEEK, DEEPSEEK_R1, "", TWO),
    (DEEPSEEK, DEEPSEEK_V31, "Hm.", ONE),
    (GRANITE, f"<|tool_call|>[{CALL}, {NOW}]", "", TWO),
    (LLAMA, LLAMA_CALL, "", ONE),
    (LLAMA, f"\n {LLAMA_CALL}", "", ONE),
    (LLAMA, f'<|python_tag|>{LLAMA_CALL}; {{"name": "now", "parameters": {{}}}}', "", TWO),
    (LLAMA, f'{{"type": "function", {LLAMA_CALL[1:]}\n{{"name": "now", "parameters": {{}}}}', "", TWO),
]  # fmt: skip


@pytest.mark.parametrize(("form", "text", "said", "called"), WRITTEN)
@pytest.mark.parametrize("seed", range(3))
def test_calls_are_read(form: CallFormat, text: str, said: str, called: list[tuple[str, object]], seed: int) -> None:
    turn = read(CallReader(form, NAMES), text, seed)
    assert (turn.text, calls(turn)) == (said, called)


NO_CALLS = [
    (HERMES, "Nothing to call."),
    (HERMES, "  An answer with space around it. \n"),
    (HERMES, "a < b <tool and <tool_"),
    (HERMES, "<tool_call>weather in Oslo</tool_call>"),
    (HERMES, "<tool_call>{'name': 'weather'}</tool_call>"),
    (HERMES, '<tool_call>\n{"name": "weather", "argum'),
    (HERMES, "<tool_call>[1]</tool_call>"),
    (HERMES, '<tool_call>{"name": "bad \\x escape", "arguments": {}}</tool_call>'),
    (MISTRAL, "[TOOL_CALLS]" + "x" * 300),
    (MISTRAL, "[TOOL_CALLS]a name without a separator{}"),
    (LLAMA, '{"answer": 42}'),
    (LLAMA, '{"name": "Oslo", "parameters": {"people": 700000}}'),
    (LLAMA, f"As JSON: {LLAMA_CALL}"),
    (LLAMA, "{x} is a set."),
]


@pytest.mark.parametrize(("form", "text"), NO_CALLS)
@pytest.mark.parametrize("seed", range(3))
def test_what_is_no_call_stays_as_it_was_written(form: CallFormat, text: str, seed: int) -> None:
    turn = read(CallReader(form, NAMES), text, seed)
    assert (turn.text, turn.calls) == (text, [])


def test_arguments_are_handed_on_as_they_come() -> None:
    reader = CallReader(HERMES, NAMES)
    assert reader.push('Well. <tool_call>\n{"name": "weather", "argum') == [Said("Well.")]
    assert reader.push('ents": {"ci') == [Called(0, "weather"), Argued(0, '{"ci')]
    assert reader.push('ty": "Os') == [Argued(0, 'ty": "Os')]
    assert reader.push('lo"}') == [Argued(0, 'lo"}')]
    assert reader.push("}\n</tool_call>") == []
    assert reader.flush() == []


def test_arguments_that_end_too_early_are_handed_on() -> None:
    turn = read(CallReader(HERMES, NAMES), '<tool_call>{"name": "weather", "arguments": {"city": "Os')
    assert (turn.text, turn.calls[0].arguments) == ("", '{"city": "Os')


def test_one_call_may_be_enough() -> None:
    reader = CallReader(HERMES, NAMES, most_calls=1)
    assert not reader.is_over
    turn = read(reader, f"<tool_call>{CALL}</tool_call><tool_call>{CALL}</tool_call> And more.")
    assert reader.is_over
    assert (turn.text, calls(turn)) == ("", ONE)


THINK = ("<think>", "</think>")


@pytest.mark.parametrize("is_thinking", [False, True])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("written", "thought", "said"),
    [
        ("<think>\nHm, 1 < 2.\n\nYes.\n</think>\n\nYes.\n", "Hm, 1 < 2.\n\nYes.", "Yes.\n"),
        ("<think>\n\n</think>\n\nYes.", "", "Yes."),
        ("\n<think>Hm", "Hm", ""),
        ("<think>Hm</thi", "Hm</thi", ""),
        ("<think>a</think>b</think>c<think>d", "a", "b</think>c<think>d"),
        ("<think>", "", ""),
    ],
)
def test_thoughts_are_told_from_words(written: str, thought: str, said: str, is_thinking: bool, seed: int) -> None:
    text = written.partition("<think>")[2] if is_thinking else written
    turn = read(ThoughtReader(THINK, is_thinking, PlainReader()), text, seed)
    assert (turn.thought, turn.text) == (thought, said)


@pytest.mark.parametrize("text", [" \nYes.", "<thing>", "", "<thi", "Yes. <think>no</think>"])
def test_an_answer_without_a_thought_stays_as_it_is(text: str) -> None:
    turn = read(ThoughtReader(THINK, False, PlainReader()), text)
    assert (turn.thought, turn.text) == ("", text)


def test_a_thought_may_come_before_a_call() -> None:
    reader = ThoughtReader(THINK, False, CallReader(HERMES, NAMES, most_calls=1))
    assert reader.push("<think>I should <tool_call>") == [Thought("I should <tool_call>")]
    assert reader.is_thinking
    turn = read(reader, f" look.</think>\n\n<tool_call>{CALL}</tool_call>")
    assert (turn.thought, turn.text, calls(turn)) == (" look.", "", ONE)
    assert reader.is_over
    assert not reader.is_thinking


ALPHABET = some.sampled_from(
    ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<think>", "</think>", '{"name": "now", "arguments": {',
     "}", "[", "]", ",", " ", "\n", '"', "\\", "x", "<", "[TOOL", ";"]
)  # fmt: skip


repeatable = settings(max_examples=300, derandomize=True, deadline=None)


@repeatable
@given(some.lists(ALPHABET, max_size=12), some.sampled_from(FORMATS), some.integers(0, 1000))
def test_portions_change_nothing(words: list[str], form: CallFormat, seed: int) -> None:
    text = "".join(words)

    def new_reader() -> Reader:
        return ThoughtReader(THINK, False, CallReader(form, NAMES))

    one, other = read(new_reader(), text, seed), Turn()
    whole = new_reader()
    for piece in joined(whole.push(text) + whole.flush()):
        other.add(piece)
    assert one.pieces == other.pieces


@repeatable
@given(some.lists(ALPHABET, max_size=12), some.sampled_from(FORMATS))
def test_without_a_call_nothing_is_lost(words: list[str], form: CallFormat) -> None:
    text = "".join(words)
    turn = read(CallReader(form, NAMES), text)
    if not turn.calls:
        assert turn.text == text


@pytest.mark.parametrize(
    ("source", "form"),
    [
        ("... '[TOOL_CALLS] [' ...", MISTRAL),
        ("... '<tool_call>\\n' ...", HERMES),
        ("... <|tool_call|> ...", GRANITE),
        ("... '<｜tool▁call▁begin｜>' ...", DEEPSEEK),
        ("... '\"parameters\": ' ...", LLAMA),
        ("{{ messages }}", None),
    ],
)
def test_the_format_is_known_by_the_template(source: str, form: CallFormat | None) -> None:
    assert format_of(source) is form


def test_thoughts_are_known_by_the_template() -> None:
    assert thoughts_of("{{ content.split('</think>') }}") == THINK
    assert thoughts_of("{{ messages }}") is None
