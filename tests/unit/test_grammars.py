"""Grammars: walks along texts, decisions along token trees, drafters that keep to them, and hostile ones."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from mpispec.core.messages import Open, Row, Sampling, opening
from mpispec.drafters.grammatical import FORCED, Grammatical
from mpispec.grammars.compiler import Compiler
from mpispec.grammars.library import GrammarError, json_grammar, lark_grammar, regex_grammar
from mpispec.runtime.decider import Decider

pytestmark = pytest.mark.unit

WORDS = ['{"', '":', ", ", "true", "false", "na", "me", "name", '"}', "<|end|>"]
EOG = 256 + len(WORDS) - 1
SIZE = EOG + 3
"""Two tokens at the end have no text, as in padded vocabularies."""
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 6}, "is_old": {"type": "boolean"}},
    "required": ["name", "is_old"],
    "additionalProperties": False,
}
GRAMMAR = json_grammar(json.dumps(SCHEMA))
PROMPT = (1, 2, 3, 4)


class Words:
    """All bytes, and some words."""

    size = SIZE
    eog = frozenset([EOG])

    def tokenize(self, text: str, special: bool, begin: bool = True) -> list[int]:
        data, tokens = text.encode(), []
        while data:
            word = max((word for word in WORDS[:-1] if data.startswith(word.encode())), key=len, default="")
            tokens.append(256 + WORDS.index(word) if word else data[0])
            data = data[max(1, len(word)) :]
        return tokens

    def piece(self, token: int, special: bool = False) -> bytes:
        if token < 256:
            return bytes([token])
        return WORDS[token - 256].encode() if token < EOG or (special and token == EOG) else b""


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    return Compiler(Words)


def tokens_of(text: str) -> list[int]:
    return Words().tokenize(text, special=False)


def logits_after(path: Sequence[int], size: int = SIZE) -> np.ndarray:
    """Return logits that depend on the whole text before, as a model's do; letters are likely, so that texts end."""
    rng = np.random.default_rng([*path, 7])
    logits = rng.normal(size=size).astype(np.float32)
    logits[ord("a") : ord("z")] += 2.0
    return logits


def sampling(text: str = GRAMMAR, seed: int = 0, temperature: float = 1.0) -> Sampling:
    return Sampling(temperature=temperature, seed=seed, grammar=text, begins=len(PROMPT))


def prompt_rows() -> list[Row]:
    last = len(PROMPT) - 1
    return [Row(0, pos, pos - 1, token, pos, 0, pos == last) for pos, token in enumerate(PROMPT)]


def decided(decider: Decider, rows: Sequence[Row], texts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return the tokens after deciding rows, whose whole texts are given."""
    decider.note(rows)
    return decider.decide(rows, np.array([logits_after(text) for text in texts]))


def plain(compiler: Compiler, wanted: Sampling, most: int = 60) -> list[int]:
    """Return an answer that is decided a token at a time."""
    decider = Decider(compiler.walk)
    decider.open(opening(0, wanted, PROMPT, 0))
    text = [*PROMPT]
    text += decided(decider, prompt_rows(), [text])
    while text[-1] != EOG and len(text) < most:
        row = Row(0, len(text) - 1, len(text) - 2, text[-1], len(text) - 1, 0, True)
        text += decided(decider, [row], [text])
    return text[len(PROMPT) :]


def read(tokens: Sequence[int]) -> object:
    return json.loads(b"".join(Words().piece(token) for token in tokens))


@pytest.mark.parametrize("seed", range(8))
def test_answers_keep_to_the_schema_and_end_by_themselves(compiler: Compiler, seed: int) -> None:
    answer = plain(compiler, sampling(seed=seed))
    assert answer[-1] == EOG
    found = read(answer[:-1])
    assert isinstance(found, dict) and len(found["name"]) <= 6 and isinstance(found["is_old"], bool)


def test_seeds_draw_different_answers(compiler: Compiler) -> None:
    assert len({tuple(plain(compiler, sampling(seed=seed))) for seed in range(8)}) > 4


@pytest.mark.parametrize("seed", range(12))
def test_a_row_is_decided_alike_whatever_was_computed_before(compiler: Compiler, seed: int) -> None:
    """A tree of right, wrong, legal and illegal draft tokens in any order, some of it twice and some never computed."""
    rng = random.Random(seed)
    wanted = sampling(seed=seed % 3)
    answer = plain(compiler, wanted)
    decider = Decider(compiler.walk)
    decider.open(opening(0, wanted, PROMPT, 0))
    assert decided(decider, prompt_rows(), [PROMPT]) == (answer[0],)
    nodes: dict[int, tuple[int, list[int]]] = {len(PROMPT) - 1: (len(PROMPT) - 1, [*PROMPT])}
    """Position and text by node."""
    right, next_node = {0: len(PROMPT) - 1}, 100
    for _ in range(150):
        parent = rng.choice(list(nodes))
        pos, text = nodes[parent]
        done = len(text) - len(PROMPT)
        is_right = text[len(PROMPT) :] == answer[:done] and done < len(answer) - 1
        token = answer[done] if is_right and rng.random() < 0.6 else rng.choice([rng.randrange(SIZE), *answer])
        row = Row(0, next_node, parent, token, pos + 1, 0, True)
        nodes[next_node] = (pos + 1, [*text, token])
        next_node += 1
        if rng.random() < 0.3:
            decider.note([row])  # given up before it was computed
            continue
        (found,) = decided(decider, [row], [nodes[row.node][1]])
        if is_right and token == answer[done]:
            assert found == answer[done + 1]
            right[done + 1] = row.node
    assert len(right) > 3


@pytest.mark.parametrize("cached", [1, len(PROMPT) + 5])
def test_a_request_that_begins_again_goes_on_in_the_middle(compiler: Compiler, cached: int) -> None:
    """Its text has cells up to `cached`; the rest is given once more, and only the last row decides."""
    wanted = sampling(seed=1)
    answer = plain(compiler, wanted)
    half = [*PROMPT, *answer[:8]]
    decider = Decider(compiler.walk)
    decider.open(opening(0, wanted, half, cached))
    rows = [Row(0, pos, pos - 1, half[pos], pos, 0, pos == len(half) - 1) for pos in range(cached, len(half))]
    assert decided(decider, rows, [half]) == (answer[8],)


def test_what_follows_an_illegal_token_is_the_end_of_the_answer(compiler: Compiler) -> None:
    decider = Decider(compiler.walk)
    decider.open(opening(0, sampling(), PROMPT, 0))
    decider.note(prompt_rows())
    rows = [Row(0, 10, 3, ord("x"), 4, 0, True), Row(0, 11, 10, ord("y"), 5, 0, True)]
    assert decided(decider, rows, [[*PROMPT, ord("x")], [*PROMPT, ord("x"), ord("y")]]) == (EOG, EOG)


def test_a_draft_offers_legal_tokens_alone_and_as_many_as_there_are(compiler: Compiler) -> None:
    decider = Decider(compiler.walk)
    decider.open(opening(0, sampling(regex_grammar("[ab]c")), PROMPT, 0))
    rows = prompt_rows()
    decider.note(rows)
    (found,) = decider.successors(rows, np.array([logits_after(PROMPT)]), 8)
    assert {token for token, _ in found} == {ord("a"), ord("b")}
    assert sum(prob for _, prob in found) == pytest.approx(1.0)
    row = Row(0, 20, 3, ord("a"), 4, 0, True)
    decider.note([row])
    ((forced,),) = decider.successors([row], np.array([logits_after([*PROMPT, ord("a")])]), 8)
    assert forced == (ord("c"), pytest.approx(1.0))


@pytest.mark.parametrize("size", [91, SIZE + 40])
def test_a_draft_may_know_fewer_tokens_or_more(compiler: Compiler, size: int) -> None:
    """It offers something even where all legal tokens are beyond its own: a strategy may wait for it."""
    decider = Decider(compiler.walk)
    decider.open(opening(0, sampling(regex_grammar("[Zz]")), PROMPT, 0))
    rows = prompt_rows()
    decider.note(rows)
    (found,) = decider.successors(rows, np.array([logits_after(PROMPT, size)]), 4)
    assert {token for token, _ in found} == ({ord("Z")} if size < ord("z") else {ord("Z"), ord("z")})
    decider.open(opening(0, sampling(regex_grammar("z")), PROMPT, 0))
    (found,) = decider.successors(rows, np.array([logits_after(PROMPT, size)]), 4)
    assert len(found) == 1 and (found[0][0] == ord("z") or found[0][1] < 0.1)


def test_closed_requests_are_forgotten(compiler: Compiler) -> None:
    decider = Decider(compiler.walk)
    decider.open(opening(0, sampling(), PROMPT, 0))
    decider.close(0)
    assert not decider._grammars


# -- drafters of the head -----------------------------------------------------------------------------------------


class Guesser:
    """A predictor that always offers the same."""

    def __init__(self, *tokens: int) -> None:
        self._tokens = tokens
        self.observed = 0

    def begin(self, tokens: Sequence[int]) -> None:
        del tokens

    def observe(self) -> None:
        self.observed += 1

    def predict(self, path: Sequence[int], width: int) -> list[tuple[int, float]]:
        del path
        return [(token, 0.5) for token in self._tokens[:width]]


def drafter(compiler: Compiler, regex: str, *guesses: int) -> Grammatical:
    walk = compiler.walk(regex_grammar(regex))
    return Grammatical(Guesser(*guesses), lambda: walk, len(PROMPT))


def test_a_drafter_offers_nothing_before_its_grammar_is_compiled() -> None:
    made = Grammatical(Guesser(ord("a")), lambda: None, len(PROMPT))
    made.begin(PROMPT)
    assert made.predict([], 1) == []


def test_a_grammar_is_compiled_on_another_thread(compiler: Compiler) -> None:
    soon = compiler.soon(regex_grammar("ab"))
    for thread in threading.enumerate():
        if thread.name == "grammar":
            thread.join(60)
    walk = soon()
    assert walk is not None and walk.allows(ord("a")) and walk is soon()


def test_a_drafter_offers_no_illegal_token(compiler: Compiler) -> None:
    made = drafter(compiler, "[ab][cd]+", ord("x"), ord("b"), ord("c"), EOG)
    tokens = [*PROMPT]
    made.begin(tokens)
    assert made.predict([], 4) == [(ord("b"), 0.5)]
    assert made.predict([ord("b")], 4) == [(ord("c"), 0.5)]
    assert made.predict([ord("b"), ord("c")], 4) == [(ord("c"), 0.5), (EOG, 0.5)]
    assert made.predict([ord("x")], 4) == []
    tokens += [ord("a"), ord("d")]
    assert made.predict([], 4) == [(ord("c"), 0.5), (EOG, 0.5)]


def test_forced_text_is_drafted_for_sure(compiler: Compiler) -> None:
    made = drafter(compiler, '(x|y)"name":true;', ord("q"))
    made.begin([*PROMPT, ord("x")])
    path: list[int] = []
    while predicted := made.predict(path, 2):
        ((token, prob),) = predicted
        assert prob == FORCED
        path.append(token)
    assert b"".join(map(Words().piece, path)) == b'"name":true;'


def test_a_drafter_follows_another_path_than_it_offered(compiler: Compiler) -> None:
    made = drafter(compiler, "(ab|ba)+", ord("a"), ord("b"))
    tokens = [*PROMPT]
    made.begin(tokens)
    rng = random.Random(3)
    for _ in range(40):
        pair = rng.choice(["ab", "ba"])
        assert {token for token, _ in made.predict([], 2)} == {ord("a"), ord("b")}
        assert [token for token, _ in made.predict([ord(pair[0])], 2)] == [ord(pair[1])]
        tokens += map(ord, pair)


# -- what cannot be compiled, or explodes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"type": "integer", "minimum": 5, "maximum": 3},
        {"$ref": "https://example.com/schema.json"},
        {"$ref": "#"},
        {"not": {"type": "string"}},
        {"type": "string", "pattern": "("},
        {"enum": []},
        {"anyOf": [{"properties": {f"a{j}": {"type": "integer"} for j in range(50)}} for _ in range(500)]},
        {"x-guidance": {"lenient": True}, "not": {}},
    ],
)
def test_schemas_that_cannot_be_kept_to_are_refused(compiler: Compiler, schema: object) -> None:
    with pytest.raises(GrammarError) as error:
        compiler.check(json_grammar(json.dumps(schema)))
    assert str(error.value) and "\n" not in str(error.value)


def test_schemas_that_are_nested_too_deeply_are_refused(compiler: Compiler) -> None:
    with pytest.raises(GrammarError):
        compiler.check(json_grammar('{"items":' * 5000 + "{}" + "}" * 5000))


@pytest.mark.parametrize("regex", ["(", r"(a)\1", "a{3,1}"])
def test_regular_expressions_that_are_none_are_refused(compiler: Compiler, regex: str) -> None:
    with pytest.raises(GrammarError):
        compiler.check(regex_grammar(regex))


@pytest.mark.parametrize("text", ["root ::= (", "", "hello", "root ::= missing", "start: ("])
def test_grammars_that_are_none_are_refused(compiler: Compiler, text: str) -> None:
    with pytest.raises(GrammarError):
        compiler.check(lark_grammar(text))


WIDE = " ".join(f'"q{number}"?' for number in range(700))
"""More than may be possible at once."""


def test_a_grammar_breaks_where_it_becomes_too_complex_and_nowhere_else(compiler: Compiler) -> None:
    """Whether a wrong path has been there before or not."""
    text = lark_grammar(f'start: head tail\nhead: /[ab]{{0,60}};/\ntail: {WIDE} | "y"\n')
    walk = compiler.walk(text)
    head = tokens_of("ab" * 20)
    assert walk.go(0, head) and walk.allowed() is not None
    for _ in range(2):
        assert not walk.go(len(head), tokens_of(";")) or walk.allowed() is None
        assert "items" in walk.error
        assert walk.go(len(head), tokens_of("ab")) and walk.allowed() is not None
        assert walk.go(3, tokens_of("aab")) and walk.allows(ord("b")) and walk.tokens == [*head[:3], *tokens_of("aab")]
        assert walk.go(3, head[3:])


def test_an_ambiguous_grammar_is_cut_off(compiler: Compiler) -> None:
    text = lark_grammar('start: e\ne: e e e | e e | "a"')
    compiler.check(text)
    walk = compiler.walk(text)
    assert not walk.go(0, [ord("a")] * 400) and walk.allowed() is None


def test_compiled_grammars_are_kept_and_few(compiler: Compiler) -> None:
    for number in range(100):
        compiler.check(regex_grammar(f"a{number}"))
    assert len(compiler._kept) == 16
    assert regex_grammar("a99") in compiler._kept


def test_a_grammar_that_a_rank_cannot_compile_ends_the_answer(compiler: Compiler) -> None:
    decider = Decider(compiler.walk)
    decider.open(opening(0, sampling(regex_grammar("(")), PROMPT, 0))
    assert decided(decider, prompt_rows(), [PROMPT]) == (EOG,)


def test_without_a_grammar_nothing_is_compiled() -> None:
    def refuse() -> Words:
        raise AssertionError("the vocabulary is read for nothing")

    decider = Decider(Compiler(refuse).walk)
    decider.open(Open(0, Sampling(), 0, ()))
    decided(decider, prompt_rows(), [PROMPT])
