"""Drafters that live in the head: the suffix store, what is predicted from it, and the trees made of that."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import pytest

from mpispec.core.ids import NodeId, Pos, RunId, Token
from mpispec.core.strategy import Bounds
from mpispec.core.tree import BY_HEAD, TokenTree
from mpispec.drafters import IN_HEAD, in_head
from mpispec.drafters.beam import Beam
from mpispec.drafters.oracle import Oracle
from mpispec.drafters.rates import Rates
from mpispec.drafters.suffix import Suffix
from mpispec.drafters.suffix_store import LONGEST, SuffixStore

pytestmark = pytest.mark.unit


def reading(tokens: list[int], store: SuffixStore | None = None) -> Suffix:
    """Return a predictor that has indexed all of a prompt."""
    suffix = Suffix(store if store is not None else SuffixStore())
    suffix.begin(tokens)
    for _ in range(len(tokens) // 100):
        suffix.observe()
    return suffix


def predicted(suffix: Suffix, path: Sequence[int] = (), width: int = 1) -> list[int]:
    """Return the tokens predicted after a path."""
    return [token for token, _ in suffix.predict(path, width)]


# -- what is predicted --------------------------------------------------------------------------------------------


def test_it_follows_what_stood_there_before() -> None:
    suffix = reading([1, 2, 3, 4, 9, 1, 2])
    assert predicted(suffix) == [3]
    assert predicted(suffix, [3]) == [4]
    assert predicted(suffix, [3, 4]) == [9]
    assert predicted(suffix, [4]) == [9]  # not after the path before, but after the same token


def test_the_longest_suffix_counts_most() -> None:
    assert predicted(reading([5, 1, 2, 7, 6, 1, 2, 8, 5, 1, 2])) == [7]  # 5 1 2 was seen once; 1 2 alone would say 8


def test_of_suffixes_as_long_the_more_frequent_continuation_counts_then_the_latest() -> None:
    assert predicted(reading([1, 2, 7, 0, 1, 2, 7, 9, 1, 2, 8, 6, 1, 2])) == [7]
    assert predicted(reading([1, 2, 7, 9, 1, 2, 8, 6, 1, 2])) == [8]


def test_it_names_several_tokens_with_probabilities_that_add_up_to_one_at_most() -> None:
    suffix = reading([1, 2, 7, 0, 1, 2, 7, 9, 1, 2, 8, 6, 1, 2])
    (first, likely), (second, less) = suffix.predict([], 3)
    assert (first, second) == (7, 8)
    assert likely == pytest.approx(2 * less)  # two places against one
    assert 0.0 < likely + less <= 1.0
    assert suffix.predict([], 1) == [(first, likely)]


def test_where_no_two_tokens_have_stood_before_the_last_one_counts() -> None:
    suffix = reading([1, 2, 3, 4, 5, 1])
    assert suffix.predict([], 1)[0][0] == 2
    assert suffix.predict([], 1)[0][1] < reading([0, 1, 2, 3, 4, 0, 1]).predict([], 1)[0][1]


def test_it_says_nothing_about_new_tokens() -> None:
    assert reading([1, 2, 3, 4, 5]).predict([], 4) == []
    assert reading([1]).predict([], 4) == []
    assert reading([1, 2, 1]).predict([9], 4) == []


def test_it_learns_as_the_text_grows() -> None:
    tokens = [1, 2, 3]
    suffix = reading(tokens)
    for token in (1, 2):
        tokens.append(token)
        suffix.observe()
    assert predicted(suffix) == [3]


def test_a_path_that_was_looked_at_step_by_step_is_predicted_as_one_that_was_not() -> None:
    rng = random.Random(5)
    tokens = [rng.randrange(100) for _ in range(400)]
    tokens += tokens[200:210]
    stepwise, at_once = reading(tokens), reading(tokens)
    for length in range(30):
        path = tokens[210 : 210 + length]
        assert predicted(stepwise, path) == predicted(at_once, path) == [tokens[210 + length]]
        assert stepwise.predict(path, 1) == at_once.predict(path, 1)
        at_once.predict([1, 2, 3], 1)  # so that it has forgotten the path


def test_what_follows_an_accepted_draft_token_is_predicted_as_for_a_fresh_request() -> None:
    rng = random.Random(6)
    tokens = [rng.randrange(5) for _ in range(200)]
    suffix = reading(tokens)
    for _ in range(60):
        path = [rng.randrange(5)]
        before = suffix.predict(path, 1)
        tokens.append(path[0] if rng.random() < 0.7 else rng.randrange(5))
        suffix.observe()
        assert bool(suffix.predict([], 5)) == bool(reading(list(tokens)).predict([], 5))
        assert before == [] or 0.0 < before[0][1] <= 1.0


def test_rates_are_learned_by_length_and_never_beyond_one() -> None:
    rates = Rates()
    assert rates[1] < rates[2] < rates[4] < rates[LONGEST] < 1.0
    for _ in range(2000):
        rates.learn(3, 0.5, True)
        rates.learn(2, 1.0, False)
    assert rates[3] == 1.0
    assert rates[2] < 0.01
    assert rates[4] == Rates()[4]


def test_a_text_that_goes_on_as_before_is_believed_more_than_one_that_does_not() -> None:
    def confidence(word: Sequence[int]) -> float:
        tokens = [1, 2, 3]
        suffix = reading(tokens)
        for index in range(300):
            tokens.append(word[index % len(word)])
            suffix.observe()
        return suffix.predict([], 1)[0][1]

    rng = random.Random(7)
    assert confidence([1, 2, 3, 4, 5, 6, 7]) > 0.9
    assert confidence([rng.randrange(3) for _ in range(300)]) < 0.6


# -- several requests ---------------------------------------------------------------------------------------------


def test_what_an_earlier_request_said_is_predicted_but_the_own_text_comes_first() -> None:
    store = SuffixStore()
    reading([1, 2, 3, 4], store)
    assert predicted(reading([1, 2], store)) == [3]
    assert predicted(reading([1, 2, 9, 8, 1, 2], store)) == [9]
    assert predicted(reading([1, 2])) == []


def test_requests_at_once_see_what_the_others_have_said() -> None:
    store = SuffixStore()
    first, second = [5, 6], [7, 8]
    one, other = reading(first, store), reading(second, store)
    for token in (1, 2, 3):
        first.append(token)
        one.observe()
    second += [1, 2]
    other.observe()
    assert predicted(other) == [3]
    assert predicted(one) == []


def test_the_requests_of_a_head_share_a_store_and_without_one_they_do_not() -> None:
    assert set(in_head(None)) == set(IN_HEAD) == {"ngram", "draft+ngram", "exit+ngram"}
    for store, expected in ((SuffixStore(), [3]), (None, [])):
        drafters = in_head(store)
        tree = TokenTree(NodeId(1), Token(2), Pos(1))
        drafters["draft+ngram"](None).begin([1, 2, 3])
        second = drafters["ngram"](None)
        second.begin([1, 2])
        second.grow(tree, Bounds(9), ())
        assert tree.path(tree.tip()) == expected


def test_a_long_prompt_is_indexed_a_piece_a_call() -> None:
    store = SuffixStore()
    rng = random.Random(1)
    tokens = [rng.randrange(50_000) for _ in range(131_072)]
    suffix = Suffix(store)
    suffix.begin(tokens)
    held = [len(store)]
    while held[-1] < len(tokens):
        suffix.observe()
        held.append(len(store))
    pieces = [after - before for before, after in zip([0, *held], held, strict=False)]
    assert max(pieces) <= 1024
    assert len(held) < 300
    tokens += tokens[1000:1010]
    suffix.observe()
    assert predicted(suffix) == [tokens[1010]]


# -- the store's bounds -------------------------------------------------------------------------------------------


def test_the_oldest_tokens_make_room_for_new_ones() -> None:
    store = SuffixStore(most_tokens=10)
    reading([1, 2, 3, 4, 5, 6], store)
    reading([11, 12, 13, 14, 15, 16], store)
    assert len(store) == 10
    assert [list(text) for text in store.texts()] == [[3, 4, 5, 6], [11, 12, 13, 14, 15, 16]]
    assert predicted(reading([4, 5], store)) == [6]
    reading([21, 22], store)
    assert [list(text) for text in store.texts()] == [[11, 12, 13, 14, 15, 16], [4, 5], [21, 22]]
    assert predicted(reading([2, 3], store)) == []


def test_what_is_written_again_is_new() -> None:
    store = SuffixStore(most_tokens=12)
    reading([1, 2, 3, 4], store)
    reading([1, 2, 3, 4], store)
    reading([7] * 6, store)
    assert predicted(reading([2, 3], store)) == [4]


def test_a_text_longer_than_the_store_keeps_its_end() -> None:
    store = SuffixStore(most_tokens=100)
    tokens = list(range(1000))
    suffix = reading(tokens, store)
    assert [list(text) for text in store.texts()] == [tokens[-100:]]
    assert predicted(suffix, [950, 951]) == [952]
    assert predicted(suffix, [850, 851]) == []


def test_a_dropped_text_whose_request_goes_on_comes_back() -> None:
    store = SuffixStore(most_tokens=6)
    tokens = [1, 2]
    first = reading(tokens, store)
    reading([11, 12, 13, 14, 15, 16, 17], store)
    for token in (1, 2, 3, 1, 2):
        tokens.append(token)
        first.observe()
    assert len(store) == 6
    assert predicted(first) == [3]


def test_very_many_short_texts_are_dropped_too() -> None:
    store = SuffixStore()
    for index in range(5000):
        store.extend(store.new_text(), [index])
    assert len(store) == sum(1 for _ in store.texts()) == 4096
    assert next(store.texts())[0] == 5000 - 4096


def test_the_same_texts_make_the_same_predictions() -> None:
    def play() -> list[list[tuple[int, float]]]:
        rng, store, found = random.Random(3), SuffixStore(most_tokens=500), []
        for _ in range(20):
            tokens = [rng.randrange(6) for _ in range(rng.randint(1, 40))]
            suffix = reading(tokens, store)
            for _ in range(30):
                found.append(suffix.predict([rng.randrange(6) for _ in range(rng.randint(0, 3))], 3))
                tokens.append(rng.randrange(6))
                suffix.observe()
        return found

    found = play()
    assert found == play()
    assert sum(map(bool, found)) > len(found) / 2


@pytest.mark.parametrize("seed", range(5))
def test_matches_are_those_that_a_search_finds(seed: int) -> None:
    rng = random.Random(seed)
    store, texts = SuffixStore(), []
    for _ in range(4):
        tokens = [rng.randrange(12) for _ in range(rng.randint(1, 60))]
        text = store.new_text()
        store.extend(text, tokens)
        texts.append(tokens)
    own = store.new_text()
    for _ in range(50):
        tail = [rng.randrange(12) for _ in range(rng.randint(2, 5))]
        wanted = [
            (tokens[index], common)
            for tokens in reversed(texts)
            for index in range(len(tokens) - 1, 1, -1)
            if (common := _common_end(tokens[:index], tail)) >= 2
        ]
        found = [(tokens[index], length) for tokens, index, length, _ in store.matches(tail, own)]
        assert found == wanted[:16] if wanted else all(length == 1 for _, length in found)


def _common_end(first: Sequence[int], second: Sequence[int]) -> int:
    length = 0
    while length < min(len(first), len(second)) and first[-1 - length] == second[-1 - length]:
        length += 1
    return length


# -- trees --------------------------------------------------------------------------------------------------------


class Known:
    """Predicts from a table of paths."""

    def __init__(self, table: Mapping[tuple[int, ...], list[tuple[int, float]]]) -> None:
        self._table = table
        self.asked: list[tuple[int, ...]] = []

    def begin(self, tokens: Sequence[int]) -> None:
        """See `Predictor`."""

    def observe(self) -> None:
        """See `Predictor`."""

    def predict(self, path: Sequence[int], width: int) -> list[tuple[int, float]]:
        self.asked.append(tuple(path))
        return self._table.get(tuple(path), [])[:width]


TABLE = {
    (): [(1, 0.6), (2, 0.3), (3, 0.1)],
    (1,): [(4, 0.5), (5, 0.4)],
    (2,): [(6, 0.9)],
    (3,): [(7, 0.9)],
    (1, 4): [(8, 1.0)],
    (2, 6): [(9, 1.0)],
}


def grown(bounds: Bounds, stops: frozenset[Token] = frozenset()) -> list[list[int]]:
    """Return the paths of the tree that is made of the table."""
    tree = TokenTree(NodeId(9), Token(0), Pos(9))
    Beam(Known(TABLE)).grow(tree, bounds, stops)
    nodes = [*tree.root.subtree()][1:]
    assert all(node.drafters == BY_HEAD for node in nodes)
    return sorted(tree.path(node) for node in nodes)  # type: ignore[type-var]


def test_width_1_makes_a_chain_up_to_the_farthest_position() -> None:
    assert grown(Bounds(40)) == [[1], [1, 4], [1, 4, 8]]
    assert grown(Bounds(11)) == [[1], [1, 4]]
    assert grown(Bounds(40), frozenset({Token(4)})) == [[1], [1, 4]]


def test_a_wider_beam_goes_on_below_the_likeliest_of_each_layer() -> None:
    assert grown(Bounds(11, 2)) == [[1], [1, 4], [2], [2, 6]]  # 0.30 and 0.27 of a path before the 0.24 of 1 5
    assert grown(Bounds(40, 2)) == [[1], [1, 4], [1, 4, 8], [2], [2, 6], [2, 6, 9]]
    assert grown(Bounds(11, 3)) == [[1], [1, 4], [1, 5], [2], [2, 6], [3]]


def test_no_path_less_likely_than_the_bound_is_drafted() -> None:
    assert grown(Bounds(40, 3, 0.25)) == [[1], [1, 4], [1, 4, 8], [2], [2, 6], [2, 6, 9]]
    assert grown(Bounds(40, 3, 0.5)) == [[1]]


def test_while_the_root_stays_nothing_is_asked_twice_and_below_a_new_root_it_goes_on() -> None:
    known = Known({(): [(1, 0.5)], (1,): [(2, 0.5)], (1, 2): [(3, 0.5)], (2,): [(3, 0.5)], (2, 3): [(4, 0.5)]})
    beam, tree = Beam(known), TokenTree(NodeId(9), Token(0), Pos(9))
    tree.dispatch(tree.root, RunId(0))
    for _ in range(3):
        beam.grow(tree, Bounds(11), ())
    assert known.asked == [(), (1,)]
    tree.advance(Token(1))
    beam.grow(tree, Bounds(13), ())
    assert known.asked[2:] == [(2,), (2, 3)]
    assert tree.path(tree.tip()) == [2, 3, 4]
    tree.advance(Token(7))
    beam.grow(tree, Bounds(13), ())
    assert tree.path(tree.tip()) == [1, 2]


# -- the oracle ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("acceptance_rate", [0.0, 0.3, 0.8, 1.0])
def test_oracle_has_the_acceptance_rate_that_was_asked_for(acceptance_rate: float) -> None:
    recorded = [index % 50 for index in range(4000)]
    oracle = Oracle(recorded, acceptance_rate, 50)
    oracle.begin([])
    accepted = sum(oracle.predict(recorded[:pos], 1)[0][0] == recorded[pos] for pos in range(0, 4000, 2))
    assert accepted / 2000 == pytest.approx(acceptance_rate, abs=0.03)
    assert oracle.predict(recorded, 1) == []
