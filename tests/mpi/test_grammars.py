"""Answers that must be JSON of a schema: at temperature 1 the same text with and without speculation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from mpispec.compute.llama_vocabulary import Vocabulary
from mpispec.grammars.library import json_grammar, lark_grammar
from tests.mpi.crafted import padded
from tests.mpi.jobs import Request, answers, request, tokens_of

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(300)]

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "kind": {"enum": ["cat", "dog", "wombat of the southern hills"]},
        "age_in_years": {"type": "integer", "minimum": 0, "maximum": 30},
        "friends": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 2},
    },
    "required": ["name", "kind", "age_in_years", "friends"],
    "additionalProperties": False,
}
GRAMMAR = json_grammar(json.dumps(SCHEMA))
TOKENS = 80
SEEDS = (1, 2)


def asked(vocabulary: Vocabulary, strategy: str, drafter: str) -> list[Request]:
    """Return a request for each seed."""
    prompt = vocabulary.tokenize("<|im_start|>user\nDescribe a pet in JSON.<|im_end|>\n<|im_start|>assistant\n", True)
    made = [request(prompt, TOKENS, strategy, drafter, temperature=1.0, seed=seed) for seed in SEEDS]
    return [{**each, "grammar": GRAMMAR} for each in made]


def text_of(vocabulary: Vocabulary, answer: dict[str, Any]) -> str:
    """Return the text of an answer."""
    return b"".join(vocabulary.piece(token) for token in answer["tokens"]).decode()


@pytest.fixture(scope="module")
def alone(vocabulary: Vocabulary) -> list[list[int]]:
    """Return the answers of one rank that does not speculate; all are complete and keep to the schema."""
    found = answers(1, asked(vocabulary, "plain", "none"), vocabulary.eog)
    for answer in found:
        assert answer["finish"] == "stop"
        assert answer["tokens"][-1] in vocabulary.eog
        jsonschema_rs.validate(SCHEMA, json.loads(text_of(vocabulary, answer)))
    assert len({text_of(vocabulary, answer) for answer in found}) == len(SEEDS), "nothing was drawn"
    return tokens_of(found)


def test_speculation_changes_no_answer(vocabulary: Vocabulary, draft: Path, alone: list[list[int]]) -> None:
    ways = (("auto", "ngram"), ("sync", "draft"), ("specpipe", "draft"), ("pipeinfer", "draft+ngram"))
    wanted = [each for way in ways for each in asked(vocabulary, *way)]
    found = answers(3, wanted, vocabulary.eog, draft=str(draft))
    assert tokens_of(found) == alone * len(ways)
    assert sum(answer["report"]["speculation"]["accepted"] for answer in found) > 0


def test_early_exits_change_no_answer(vocabulary: Vocabulary, alone: list[list[int]]) -> None:
    assert tokens_of(answers(2, asked(vocabulary, "speed", "exit"), vocabulary.eog, exits=(1,))) == alone


def test_a_draft_with_other_tokens_at_the_end_changes_no_answer(
    vocabulary: Vocabulary, draft: Path, alone: list[list[int]], tmp_path: Path
) -> None:
    longer = padded(draft, tmp_path / "padded.gguf", 64, first=5)
    assert tokens_of(answers(3, asked(vocabulary, "sync", "draft"), vocabulary.eog, draft=str(longer))) == alone


def test_a_grammar_that_becomes_too_complex_stops_the_answer_there(vocabulary: Vocabulary) -> None:
    wide = " ".join(f'"q{number}"?' for number in range(700))
    grammar = lark_grammar(f'start: head tail\nhead: /abc;/\ntail: {wide} | "y"\n')
    wanted = [
        {**each, "grammar": grammar}
        for way in (("plain", "none"), ("sync", "ngram"))
        for each in asked(vocabulary, *way)
    ]
    for answer in answers(2, wanted, vocabulary.eog):
        assert answer["finish"] == "stop"
        assert "abc;".startswith(text_of(vocabulary, answer))
        assert len(answer["tokens"]) < TOKENS
