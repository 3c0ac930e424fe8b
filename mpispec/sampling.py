"""Deciding tokens: position-keyed Gumbel noise makes the choice a function of logits, history, seed and position.

The token at position p is the argmax over the allowed tokens of logit / T + g, where g is Gumbel noise from a
counter-based hash of (seed, p, token): exactly a draw from softmax(logits / T) (Gumbel-max trick), and the same draw
whether the row was computed alone, in a batch, speculatively or not (law 6). A draft token is accepted when it is that
token (sample-then-match, as in llama.cpp's speculative decoding; ADR 0006), which is exact for any drafter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Tokens = NDArray[np.int32]
_NO_TOKENS: Tokens = np.zeros(0, np.int32)
_MASK = np.uint64(0xFFFFFFFFFFFFFFFF)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MOST_BITS = 2.0**53 - 1.0
_ROUNDING = 1.0 + 1e-6
"""More than what rounding may take from either side of a comparison."""
LEAST_LOGPROB = -9999.0
"""Stands for the logarithm of nothing, as with OpenAI, since JSON has no infinity."""
_NEVER = np.float32(-1e30)
"""Logit of a token that must not be chosen; finite, so that no sum of logits is undefined."""


class Parameters(Protocol):
    """The fields of `core.messages.Sampling` that decide a token."""

    @property
    def temperature(self) -> float: ...
    @property
    def top_k(self) -> int: ...
    @property
    def top_p(self) -> float: ...
    @property
    def min_p(self) -> float: ...
    @property
    def repeat_penalty(self) -> float: ...
    @property
    def repeat_last_n(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def presence_penalty(self) -> float: ...
    @property
    def frequency_penalty(self) -> float: ...
    @property
    def begins(self) -> int: ...
    @property
    def held_to(self) -> int: ...
    @property
    def logit_bias(self) -> Sequence[tuple[int, float]]: ...
    @property
    def held(self) -> Sequence[int]: ...


def describe(parameters: Parameters) -> str:
    """Return in words how tokens are drawn, seed aside."""
    words = [f"temperature {parameters.temperature:g}"]
    if parameters.temperature > 0.0:
        words += [f"top-k {parameters.top_k}"] if parameters.top_k > 0 else []
        words += [f"top-p {parameters.top_p:g}"] if parameters.top_p < 1.0 else []
        words += [f"min-p {parameters.min_p:g}"] if parameters.min_p > 0.0 else []
    words += [f"repeat penalty {parameters.repeat_penalty:g}"] if parameters.repeat_penalty != 1.0 else []
    words += [f"presence penalty {parameters.presence_penalty:g}"] if parameters.presence_penalty else []
    words += [f"frequency penalty {parameters.frequency_penalty:g}"] if parameters.frequency_penalty else []
    return ", ".join(words)


def adjusted(logits: Floats, parameters: Parameters, pos: int, path: Tokens = _NO_TOKENS) -> Floats:
    """Return the logits that decide the token at position `pos`: biases, penalties, then what is held back.

    `logits` is float32 [vocabulary] and stays as it is; `path` int [tokens] are those at the positions just before
    `pos`, as far back as penalties look. A draft of fewer tokens has no logits for the others, which are left out.
    """
    logits = logits.copy()
    if parameters.logit_bias:
        tokens, biases = (np.array(column) for column in zip(*parameters.logit_bias, strict=True))
        known = tokens < logits.size
        np.add.at(logits, tokens[known], biases[known].astype(np.float32))
    if parameters.repeat_penalty != 1.0 and parameters.repeat_last_n > 0:
        _penalise_recent(logits, path[-parameters.repeat_last_n :], parameters.repeat_penalty)
    if parameters.presence_penalty or parameters.frequency_penalty:
        _penalise_counts(logits, path[len(path) - min(len(path), max(0, pos - parameters.begins)) :], parameters)
    if pos < parameters.held_to:
        held = np.asarray(parameters.held, np.int64)
        logits[held[held < logits.size]] = _NEVER
    return logits


def _penalise_recent(logits: Floats, recent: Tokens, penalty: float) -> None:
    """Divide (positive) or multiply (negative) the logits of recent tokens by `penalty`."""
    seen = np.unique(recent)
    seen = seen[seen < logits.size]
    values = logits[seen]
    logits[seen] = np.where(values > 0, values / penalty, values * penalty)


def _penalise_counts(logits: Floats, answer: Tokens, parameters: Parameters) -> None:
    """Subtract what the penalties say for tokens of the answer so far, and for how often it has each."""
    seen, counts = np.unique(answer, return_counts=True)
    known = seen < logits.size
    penalties = parameters.presence_penalty + parameters.frequency_penalty * counts[known]
    logits[seen[known]] -= penalties.astype(np.float32)


def decide(logits: Floats, parameters: Parameters, pos: int) -> int:
    """Return the token at position `pos`; `logits` is float32 [vocabulary], adjusted where it has to be."""
    if parameters.temperature <= 0.0:
        return int(np.argmax(logits))
    tokens, scores = allowed(logits, parameters)
    return _perturbed_argmax(tokens, scores, parameters.seed, pos)


def successors(logits: Floats, parameters: Parameters, pos: int, count: int) -> list[tuple[int, float]]:
    """Return the `count` tokens that `decide` would choose first, best first, each with a confidence.

    The draft decides under the target's own noise, which couples their tokens at any temperature. The confidence is the
    softmax over the scores that decide, at temperature 0 over the logits: an estimate to be calibrated.
    """
    if parameters.temperature <= 0.0:
        return _likeliest(logits, count)
    tokens, scores = allowed(logits, parameters)
    scores = scores + gumbel(parameters.seed, pos, tokens)
    return [(int(tokens[index]), confidence) for index, confidence in _likeliest(scores, count)]


def _likeliest(scores: NDArray[Any], count: int) -> list[tuple[int, float]]:
    """Return the indices of the `count` largest scores, the lower one of two equals first, each with its softmax.

    Keeps the scores' precision and looks for one after the other: a draft does this for every row, on slow hosts.
    """
    weights = np.exp(scores - scores.max())
    total = float(weights.sum())
    if count == 1:
        index = int(np.argmax(scores))
        return [(index, float(weights[index]) / total)]
    left = scores.copy()
    found = []
    for _ in range(min(count, scores.size)):
        index = int(np.argmax(left))
        found.append((index, float(weights[index]) / total))
        left[index] = -np.inf
    return found


def log_probabilities(logits: Floats, token: int, count: int) -> tuple[float, list[tuple[int, float]]]:
    """Return the logarithm of a token's probability, and the `count` likeliest tokens with theirs, best first.

    `logits` is float32 [vocabulary] as the model gives them. Of two equals the lower id comes first.
    """
    peak = float(logits.max())
    total = peak + math.log(np.exp(logits - np.float32(peak)).sum(dtype=np.float64))

    def of(value: float) -> float:
        return min(0.0, max(value - total, LEAST_LOGPROB))

    count = min(count, logits.size)
    if count <= 0:
        return of(float(logits[token])), []
    threshold = np.partition(logits, logits.size - count)[logits.size - count]
    likely = np.flatnonzero(logits >= threshold)
    likely = likely[np.argsort(-logits[likely], kind="stable")][:count]
    return of(float(logits[token])), [(int(other), of(float(logits[other]))) for other in likely]


def allowed(logits: Floats, parameters: Parameters) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the tokens that top-k, then top-p, then min-p leave, and their scores: logits divided by the temperature.

    The best score is 0. The filters look at softmax(logits) at temperature 1, as llama.cpp's default order of samplers
    does.
    """
    if parameters.top_k > 0 and parameters.top_k < logits.size:
        # All tokens as good as the k-th stay, so that ties do not depend on the order of a partial sort.
        threshold = np.partition(logits, logits.size - parameters.top_k)[logits.size - parameters.top_k]
        tokens = np.flatnonzero(logits >= threshold)
    else:
        tokens = np.arange(logits.size, dtype=np.int64)
    kept = logits[tokens].astype(np.float64)
    if parameters.top_p < 1.0 or parameters.min_p > 0.0:
        probs = np.exp(kept - kept.max())
        total = probs.sum()
        # All tokens below this have less than 1 - top_p together: only the others, a few hundred, need an order.
        least = max(parameters.min_p, (1.0 - parameters.top_p) * total / probs.size)
        likely = np.flatnonzero(probs >= least)
        likely = likely[np.argsort(-kept[likely], kind="stable")]
        if parameters.top_p < 1.0:
            cumulative = np.cumsum(probs[likely]) / total
            likely = likely[: int(np.searchsorted(cumulative, parameters.top_p)) + 1]
        tokens, kept = tokens[likely], kept[likely]
    # Subtracted before, so that a tiny temperature makes -inf of the others and leaves the best one its score.
    with np.errstate(over="ignore"):
        return tokens, (kept - kept.max()) / parameters.temperature


def gumbel(seed: int, pos: int, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return standard Gumbel noise float64 [tokens], a function of (seed, pos, token) alone."""
    return _noise_of(_hashed(seed, pos, tokens))


def _hashed(seed: int, pos: int, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return 53 random bits a token as integers in float64."""
    with np.errstate(over="ignore"):
        key = _mixed(_mixed(np.uint64(seed & int(_MASK))) ^ np.uint64(pos))
        bits = _mixed(key ^ (tokens.astype(np.uint64) * _GOLDEN))
    return (bits >> np.uint64(11)).astype(np.float64)


def _noise_of(bits: NDArray[np.float64]) -> NDArray[np.float64]:
    noise: NDArray[np.float64] = -np.log(-np.log((bits + 0.5) * 2.0**-53))
    return noise


def _perturbed_argmax(tokens: NDArray[np.int64], scores: NDArray[np.float64], seed: int, pos: int) -> int:
    """Return the token of the largest score + noise, with logarithms only for tokens that can still win.

    Noise -log(-log u) reaches d only if 1 - u <= exp(-d), because 1 - u <= -log u. A token that surely does well gives
    the leader that the others would have to reach.
    """
    bits = _hashed(seed, pos, tokens)
    first = int(np.argmax(scores))
    leader = scores[first] + _noise_of(bits[first : first + 1])[0]
    contenders = np.flatnonzero((_MOST_BITS - bits) * 2.0**-53 <= np.exp(scores - leader) * _ROUNDING)
    noisy = scores[contenders] + _noise_of(bits[contenders])
    return int(tokens[contenders[np.argmax(noisy)]])


def _mixed(value: np.uint64 | NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Finalise a 64-bit word (splitmix64, Steele et al. 2014)."""
    word = np.asarray(value, dtype=np.uint64) + _GOLDEN
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = word ^ (word >> np.uint64(31))
    return mixed
