"""A turn's prompt begins with the tokens the engine has seen."""

from __future__ import annotations

import dataclasses

import pytest
from serve_fake import END, START, ByteVocabulary, FakeEngine, make_service, render

from mpispec.serve.repl import Conversation
from mpispec.serve.service import Service

pytestmark = pytest.mark.unit

BEGIN = 258
PAIR = 259
"""A second way to write `ab`, which the tokenizer never chooses."""


class Pairs(ByteVocabulary):
    """Bytes, a token for `ab` that only a model writes, and a first token of every text."""

    size = 260

    def tokenize(self, text: str, special: bool) -> list[int]:
        return [BEGIN, *super().tokenize(text, special)]

    def piece(self, token: int) -> bytes:
        return {BEGIN: b"", PAIR: b"ab"}.get(token) or super().piece(token)


@pytest.fixture
def service() -> Service:
    engine = FakeEngine()
    engine.join()
    return dataclasses.replace(make_service(engine), vocabulary=Pairs())


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


def test_a_template_that_changes_an_answer_is_tokenized_anew(service: Service) -> None:
    trimming = dataclasses.replace(
        service, render=lambda messages: render([{**turn, "content": turn["content"].strip()} for turn in messages])
    )
    conversation = Conversation(trimming)
    first = conversation.ask("x")
    conversation.add("x", first, " ab ", [ord(" "), PAIR, ord(" "), END])
    assert conversation.ask("y") == trimming.vocabulary.tokenize(
        "<|start|>user\nx<|end|><|start|>assistant\nab<|end|><|start|>user\ny<|end|><|start|>assistant\n", special=True
    )


def test_a_template_without_an_end_token_is_tokenized_anew(service: Service) -> None:
    def join_lines(messages: object) -> str:
        return "\n".join(turn["content"] for turn in messages) + "\n"  # type: ignore[attr-defined]

    plain = dataclasses.replace(service, render=join_lines)
    conversation = Conversation(plain)
    conversation.add("x", conversation.ask("x"), "ab", [PAIR])
    assert conversation.ask("y") == [BEGIN, *b"x\nab\ny\n"]
