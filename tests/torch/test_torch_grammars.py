"""Grammars with the tokenizer of a Hugging Face folder, and answers on torch that keep to them."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema_rs
import numpy as np
import pytest

from mpispec.compute.hf_vocabulary import HfVocabulary
from mpispec.compute.llama_vocabulary import Vocabulary
from mpispec.grammars.compiler import Compiler
from mpispec.grammars.library import json_grammar
from mpispec.models.default import resolve
from tests.mpi.jobs import answers, request, tokens_of

pytestmark = [pytest.mark.torch, pytest.mark.timeout(300)]

SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["cat", "dog"]}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["kind", "age"],
    "additionalProperties": False,
}
GRAMMAR = json_grammar(json.dumps(SCHEMA))


def test_both_forms_of_a_vocabulary_allow_the_same_tokens(default_model: Path) -> None:
    folder, file = HfVocabulary(default_model), Vocabulary(resolve(None))
    walks = [Compiler(lambda each=each: each).walk(GRAMMAR) for each in (folder, file)]
    both_end = folder.eog & file.eog
    other = np.array([token for token in range(file.size) if token not in folder.eog | file.eog])
    for token in [*file.tokenize('{"kind": "dog", "age": 12}', special=False), None]:
        one, two = (walk.allowed() for walk in walks)
        assert one is not None and two is not None
        assert np.array_equal(one[other], two[other])
        assert all(one[end] == two[end] for end in both_end)
        assert token is None or all(walk.go(len(walk.tokens), [token]) for walk in walks)
    assert all(walk.is_complete for walk in walks)


def test_answers_on_torch_keep_to_the_schema_and_speculation_changes_none(default_model: Path) -> None:
    vocabulary = HfVocabulary(default_model)
    prompt = vocabulary.tokenize("A pet in JSON:\n", special=False)
    ways = (("plain", "none"), ("sync", "ngram"))
    wanted = [request(prompt, 32, *way, temperature=1.0, seed=seed) for way in ways for seed in (1, 2)]
    asked = [{**each, "grammar": GRAMMAR} for each in wanted]
    found = answers(2, asked, vocabulary.eog, model=str(default_model))
    assert tokens_of(found[:2]) == tokens_of(found[2:])
    for answer in found:
        assert answer["finish"] == "stop"
        jsonschema_rs.validate(SCHEMA, json.loads(b"".join(map(vocabulary.piece, answer["tokens"]))))
