"""Predictors in the head."""

from __future__ import annotations

import pytest

from mpispec.drafters.ngram import NGram
from mpispec.drafters.oracle import Oracle

pytestmark = pytest.mark.unit


def test_ngram_follows_what_stood_there_before() -> None:
    tokens = [1, 2, 3, 4, 9, 1, 2]
    ngram = NGram()
    ngram.begin(tokens)
    assert ngram.predict([]) == (3, 1 / 2)
    assert ngram.predict([3]) == (4, 1 / 2)


def test_ngram_prefers_the_latest_and_the_longest() -> None:
    ngram = NGram()
    ngram.begin([5, 1, 2, 7, 6, 1, 2, 8, 5, 1, 2])
    assert ngram.predict([]) == (7, 1 / 2)  # 5 1 2 was seen once; 1 2 alone would say 8


def test_ngram_learns_as_the_text_grows() -> None:
    tokens = [1, 2, 3]
    ngram = NGram()
    ngram.begin(tokens)
    tokens += [1, 2]
    ngram.observe()
    assert ngram.predict([]) == (3, 1 / 2)


def test_ngram_knows_how_often_each_length_was_right() -> None:
    tokens = [1, 2, 3]
    ngram = NGram(longest=2)
    ngram.begin(tokens)
    for last in (3, 3, 9, 3):
        tokens += [1, 2, last]
    ngram.observe()
    tokens += [1, 2]
    # 1 2 was tried four times and right twice (3 after 3, 3 after 3); 2 3 and 3 1 once each, wrong or right.
    token, prob = ngram.predict([]) or (None, 0.0)
    assert token == 3
    assert 0.4 < prob < 0.8


def test_ngram_says_nothing_about_new_text() -> None:
    ngram = NGram()
    ngram.begin([1, 2, 3, 4, 5])
    assert ngram.predict([]) is None
    ngram.begin([1])
    assert ngram.predict([]) is None


@pytest.mark.parametrize("acceptance_rate", [0.0, 0.3, 0.8, 1.0])
def test_oracle_has_the_acceptance_rate_that_was_asked_for(acceptance_rate: float) -> None:
    recorded = [index % 50 for index in range(4000)]
    oracle = Oracle(recorded, acceptance_rate, 50)
    oracle.begin([])
    accepted = sum(oracle.predict(recorded[:pos])[0] == recorded[pos] for pos in range(0, 4000, 2))  # type: ignore[index]
    assert accepted / 2000 == pytest.approx(acceptance_rate, abs=0.03)
    assert oracle.predict(recorded) is None
