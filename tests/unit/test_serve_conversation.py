"""A turn's prompt begins with the tokens the engine has seen."""

from __future__ import annotations

import pytest
from serve_fake import END, START, TURNS, ByteVocabulary, FakeEngine, make_service

from mpispec.serve.terminal.repl import Conversation
from mpispec.serve.text.service import Service

pytestmark = pytest.mark.unit

BEGIN = 258
PAIR = 259
"""A second way to write `ab`, which the tokenizer never chooses."""


class Pairs(ByteVocabulary):
    """Bytes, a token for `ab` that only a model writes, and a first token of every text."""

    size = 260

    def tokenize(self, text: str, special: bool, begin: bool = True) -> list[int]:
        return [BEGIN] * begin + super().tokenize(text, special)

    def piece(self, token: int, special: bool = False) -> bytes:
        return {BEGIN: b"", PAIR: b"ab"}.get(token) or super().piece(token, special)


def make(template: str = TURNS) -> Service:
    engine = FakeEngine()
    engine.join()
    return make_service(engine, template=template, vocabulary=Pairs())


@pytest.fixture
def service() -> Service:
    return make()


def test_what_the_model_wrote_stays_as_it_wrote_it(service: Service) -> None:
    conversation = Conversation(service)
    first = conversation.ask("x")
    assert first[0] == BEGIN
    conversation.add("x", first, "abc", [PAIR, ord("c"), END])
    second = conversation.ask("y")
    assert second == [*first, PAIR, ord("c"), END, START, *b"user\ny", END, START, *b"assistant\n"]


def test_asking_alone_adds_nothing(service: Service) -> None:
    conversation = Conversation(service)
    conversation.ask("too long")
    assert conversation.ask("x") == Conversation(service).ask("x")


def test_a_template_that_changes_an_answer_is_tokenized_anew() -> None:
    trimming = make(TURNS.replace("m.content", "m.content.strip()"))
    conversation = Conversation(trimming)
    first = conversation.ask("x")
    conversation.add("x", first, " ab ", [ord(" "), PAIR, ord(" "), END])
    assert conversation.ask("y") == trimming.vocabulary.tokenize(
        "<|start|>user\nx<|end|><|start|>assistant\nab<|end|><|start|>user\ny<|end|><|start|>assistant\n", special=True
    )


def test_a_template_without_an_end_token_is_tokenized_anew() -> None:
    conversation = Conversation(make("{% for m in messages %}{{ m.content + '\n' }}{% endfor %}"))
    conversation.add("x", conversation.ask("x"), "ab", [PAIR])
    assert conversation.ask("y") == [BEGIN, *b"x\nab\ny\n"]
