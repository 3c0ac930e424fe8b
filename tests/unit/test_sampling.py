"""Deciding tokens: the right distribution, the same token whatever the circumstances."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mpispec.core.ids import Token
from mpispec.core.messages import Sampling
from mpispec.sampling import adjusted, allowed, decide, gumbel, successors

pytestmark = pytest.mark.unit

LOGITS = np.array([2.0, 1.0, 0.5, 0.0, -1.0, -3.0], dtype=np.float32)


def _softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    weights = np.exp((logits - logits.max()) / temperature)
    return weights / weights.sum()


def test_greedy_is_the_first_of_the_largest() -> None:
    assert decide(np.array([1.0, 3.0, 3.0], dtype=np.float32), Sampling(), 5) == 1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_noise_draws_from_the_softmax(temperature: float) -> None:
    draws = 20_000
    sampling = Sampling(temperature=temperature, seed=11)
    counts = np.bincount([decide(LOGITS, sampling, pos) for pos in range(draws)], minlength=LOGITS.size)
    expected = _softmax(LOGITS, temperature) * draws
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 20.5  # 99.9 % quantile of chi-square with 5 degrees of freedom; the seed is fixed


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("temperature", [5e-324, 1e-308, 1e-100, 1e-40, 1e-15, 1e-12, 1e-6])
def test_a_temperature_of_next_to_nothing_is_greedy(temperature: float) -> None:
    rng = np.random.default_rng(2)
    for pos in range(50):
        logits = (rng.standard_normal(500) * 3).astype(np.float32)
        sampling = Sampling(temperature=temperature, seed=5, repeat_penalty=0.01, held=(Token(3),), held_to=60)
        logits = adjusted(logits, sampling, pos, np.array([1, 2], np.int32))
        greedy = decide(logits, Sampling(), pos)
        assert decide(logits, sampling, pos) == greedy
        assert successors(logits, sampling, pos, 3)[0] == (greedy, 1.0)


@pytest.mark.filterwarnings("error")
def test_any_temperature_draws_from_equals() -> None:
    logits = np.array([-2.0, 7.0, 7.0, 1.0], dtype=np.float32)
    for exponent in range(-323, 1, 17):
        drawn = {decide(logits, Sampling(temperature=10.0**exponent, seed=1), pos) for pos in range(40)}
        assert drawn >= {1, 2}


def test_a_large_vocabulary_draws_as_the_whole_sum_would() -> None:
    """Leaving out tokens that cannot win must not change who wins."""
    rng = np.random.default_rng(3)
    for pos in range(200):
        logits = (rng.standard_normal(5000) * 3).astype(np.float32)
        every = logits.astype(np.float64) / 0.9 + gumbel(7, pos, np.arange(5000))
        assert decide(logits, Sampling(temperature=0.9, seed=7), pos) == int(np.argmax(every))


def test_noise_depends_on_seed_position_and_token_alone() -> None:
    tokens = np.arange(1000)
    noise = gumbel(1, 2, tokens)
    assert np.array_equal(noise[::-1], gumbel(1, 2, tokens[::-1]))
    assert not np.array_equal(noise, gumbel(2, 2, tokens))
    assert not np.array_equal(noise, gumbel(1, 3, tokens))
    assert np.isfinite(gumbel(2**64 - 1, 2**31 - 1, tokens)).all()
    assert noise.mean() == pytest.approx(0.5772, abs=0.1)


def test_filters_keep_what_they_say() -> None:
    assert set(allowed(LOGITS, Sampling(temperature=1.0, top_k=2))[0]) == {0, 1}
    assert set(allowed(LOGITS, Sampling(temperature=1.0, top_p=0.5))[0]) == {0}
    assert set(allowed(LOGITS, Sampling(temperature=1.0, top_p=0.7))[0]) == {0, 1}
    assert set(allowed(LOGITS, Sampling(temperature=1.0, min_p=0.2))[0]) == {0, 1, 2}
    assert set(allowed(LOGITS, Sampling(temperature=1.0, min_p=1.0))[0]) == {0}
    assert len(allowed(LOGITS, Sampling(temperature=1.0))[0]) == LOGITS.size


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("min_p", [0.0, 0.05, 0.5])
def test_filters_keep_what_sorting_all_tokens_would(top_p: float, min_p: float) -> None:
    rng = np.random.default_rng(9)
    for spread in (0.1, 1.0, 4.0):
        logits = (rng.standard_normal(5000) * spread).round(2).astype(np.float32)  # rounded, so that some are equal
        order = np.argsort(-logits, kind="stable")
        probs = np.exp(logits[order].astype(np.float64) - float(logits.max()))
        cumulative = np.cumsum(probs) / probs.sum()
        size = min(np.searchsorted(cumulative, top_p) + 1 if top_p < 1.0 else 5000, np.count_nonzero(probs >= min_p))
        kept, scores = allowed(logits, Sampling(temperature=0.5, top_p=top_p, min_p=min_p))
        assert set(kept) == set(order[:size])
        assert scores == pytest.approx((logits[kept].astype(np.float64) - float(logits.max())) / 0.5)


def after(*path: int) -> np.ndarray:
    """Return a path of tokens as `adjusted` takes it."""
    return np.array(path, np.int32)


def test_the_repeat_penalty_divides_positive_and_multiplies_negative_logits_of_the_last_tokens() -> None:
    sampling = Sampling(repeat_penalty=2.0, repeat_last_n=3)
    assert adjusted(LOGITS, sampling, 9, after(1, 0, 0, 4)).tolist() == [1.0, 1.0, 0.5, 0.0, -2.0, -3.0]
    assert adjusted(LOGITS, replace(sampling, repeat_last_n=0), 9, after(0, 0, 4)).tolist() == LOGITS.tolist()
    assert LOGITS[0] == 2.0, "the model's own logits are left alone"


def test_presence_counts_once_and_frequency_each_time_in_the_answer_alone() -> None:
    path = after(5, 5, 5, 0, 3, 0)  # the first three are the prompt's
    sampling = Sampling(presence_penalty=0.5, frequency_penalty=0.25, begins=10)
    assert adjusted(LOGITS, sampling, 13, path).tolist() == [1.0, 1.0, 0.5, -0.75, -1.0, -3.0]
    assert adjusted(LOGITS, sampling, 10, path[:3]).tolist() == LOGITS.tolist()
    assert adjusted(LOGITS, replace(sampling, begins=0), 6, path)[5] == -4.25


def test_a_bias_comes_before_the_penalties() -> None:
    sampling = Sampling(logit_bias=((Token(5), 5.0),), repeat_penalty=2.0, presence_penalty=0.5)
    assert adjusted(LOGITS, sampling, 1, after(5))[5] == 0.5


def test_what_is_held_back_is_never_drawn_before_its_time() -> None:
    sampling = Sampling(temperature=2.0, seed=4, logit_bias=((Token(1), 100.0),), held=(Token(1), Token(0)), held_to=40)
    drawn = [decide(adjusted(LOGITS, sampling, pos), sampling, pos) for pos in range(80)]
    assert not {0, 1} & set(drawn[:40])
    assert set(drawn[40:]) == {1}


def test_what_is_forbidden_is_never_drawn_however_hot() -> None:
    sampling = Sampling(temperature=100.0, seed=4, logit_bias=tuple((Token(token), -1e6) for token in range(5)))
    assert {decide(adjusted(LOGITS, sampling, pos), sampling, pos) for pos in range(300)} == {5}


def test_tokens_that_a_draft_does_not_have_are_left_out() -> None:
    logits = np.array([1.0, 2.0, 3.0], np.float32)
    sampling = Sampling(
        repeat_penalty=2.0, presence_penalty=1.0, logit_bias=((Token(9), 1.0),), held=(Token(2), Token(8)), held_to=9
    )
    assert adjusted(logits, sampling, 2, after(1, 7)).tolist() == [1.0, 0.0, np.float32(-1e30)]


def test_the_first_successor_is_the_decision() -> None:
    rng = np.random.default_rng(5)
    for pos in range(100):
        logits = (rng.standard_normal(500) * 3).astype(np.float32)
        for sampling in (Sampling(), Sampling(temperature=0.8, seed=3), Sampling(temperature=1.2, top_k=40, top_p=0.9)):
            found = successors(logits, sampling, pos, 4)
            assert found[0][0] == decide(logits, sampling, pos)
            assert [prob for _, prob in found] == sorted((prob for _, prob in found), reverse=True)
            assert 0.0 < sum(prob for _, prob in found) <= 1.0 + 1e-9


def test_confidence_of_a_greedy_draft_token_is_the_softmax() -> None:
    found = successors(LOGITS, Sampling(), 0, 2)
    assert found[1] == (1, pytest.approx(float(_softmax(LOGITS, 1.0)[1])))


def test_there_are_no_more_successors_than_tokens() -> None:
    assert len(successors(LOGITS, Sampling(temperature=1.0, top_k=2), 0, 5)) == 2
