"""Deciding tokens: position-keyed Gumbel noise makes the choice a function of logits, history, seed and position.

The token at position p is the argmax over the allowed tokens of logit / T + g, where g is Gumbel noise from a
counter-based hash of (seed, p, token): exactly a draw from softmax(logits / T) (Gumbel-max trick), and the same draw
whether the row was computed alone, in a batch, speculatively or not (law 6). A guess is kept when it equals that
token (sample-then-match, papers.md 0.3), which is exact for any proposer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_MASK = np.uint64(0xFFFFFFFFFFFFFFFF)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_LARGEST_NOISE = 38.0
"""Above -log(-log(1 - 2**-54)), the largest noise that `gumbel` returns."""


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
    def seed(self) -> int: ...


def decide(logits: Floats, parameters: Parameters, pos: int, recent: Sequence[int] = ()) -> int:
    """Return the token at position `pos`.

    `logits` is float32 [vocabulary]; `recent` are the last tokens of the path, used by the repeat penalty only.
    """
    if parameters.repeat_penalty != 1.0 and recent:
        logits = penalised(logits, recent, parameters.repeat_penalty)
    if parameters.temperature <= 0.0:
        return int(np.argmax(logits))
    tokens, scores = allowed(logits, parameters)
    return _perturbed_argmax(tokens, scores, parameters.seed, pos)


def successors(
    logits: Floats, parameters: Parameters, pos: int, count: int, recent: Sequence[int] = ()
) -> list[tuple[int, float]]:
    """Return the `count` tokens that `decide` would choose first, best first, each with a confidence.

    The draft guesses under the target's own noise, which couples guess and verdict at any temperature. The confidence
    is the softmax over the scores that decide, at temperature 0 over the logits: an estimate to be calibrated.
    """
    if parameters.repeat_penalty != 1.0 and recent:
        logits = penalised(logits, recent, parameters.repeat_penalty)
    if parameters.temperature <= 0.0:
        tokens, scores = np.arange(logits.size), logits.astype(np.float64)
    else:
        tokens, scores = allowed(logits, parameters)
        scores = scores + gumbel(parameters.seed, pos, tokens)
    count = min(count, scores.size)
    best = np.argpartition(scores, scores.size - count)[scores.size - count :]
    best = best[np.lexsort((tokens[best], -scores[best]))]
    weights = np.exp(scores[best] - scores.max())
    confidences = weights / np.exp(scores - scores.max()).sum()
    return [(int(token), float(prob)) for token, prob in zip(tokens[best], confidences, strict=True)]


def penalised(logits: Floats, recent: Sequence[int], penalty: float) -> Floats:
    """Return a copy with the logits of recent tokens divided (positive) or multiplied (negative) by `penalty`."""
    logits = logits.copy()
    seen = np.unique(np.asarray(recent, dtype=np.int64))
    values = logits[seen]
    logits[seen] = np.where(values > 0, values / penalty, values * penalty)
    return logits


def allowed(logits: Floats, parameters: Parameters) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the tokens that top-k, then top-p, then min-p leave, and their logits divided by the temperature.

    The filters look at softmax(logits) at temperature 1, as llama.cpp's default order of samplers does.
    """
    if parameters.top_k > 0 and parameters.top_k < logits.size:
        # All tokens as good as the k-th stay, so that ties do not depend on the order of a partial sort.
        threshold = np.partition(logits, logits.size - parameters.top_k)[logits.size - parameters.top_k]
        tokens = np.flatnonzero(logits >= threshold)
    else:
        tokens = np.arange(logits.size, dtype=np.int64)
    kept = logits[tokens].astype(np.float64)
    if parameters.top_p < 1.0 or parameters.min_p > 0.0:
        order = np.argsort(-kept, kind="stable")
        tokens, kept = tokens[order], kept[order]
        probs = np.exp(kept - kept[0])
        size = int(np.count_nonzero(probs >= parameters.min_p)) if parameters.min_p > 0.0 else kept.size
        if parameters.top_p < 1.0:
            cumulative = np.cumsum(probs) / probs.sum()
            size = min(size, int(np.searchsorted(cumulative, parameters.top_p)) + 1)
        tokens, kept = tokens[: max(size, 1)], kept[: max(size, 1)]
    return tokens, kept / parameters.temperature


def gumbel(seed: int, pos: int, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return standard Gumbel noise float64 [tokens], a function of (seed, pos, token) alone."""
    with np.errstate(over="ignore"):
        key = _mixed(_mixed(np.uint64(seed & int(_MASK))) ^ np.uint64(pos))
        bits = _mixed(key ^ (tokens.astype(np.uint64) * _GOLDEN))
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    noise: NDArray[np.float64] = -np.log(-np.log(uniform))
    return noise


def _perturbed_argmax(tokens: NDArray[np.int64], scores: NDArray[np.float64], seed: int, pos: int) -> int:
    """Return the token of the largest score + noise, without hashing tokens that cannot win.

    The noise is bounded, so once the 64 best scores have their noise, only tokens within reach of the leader matter.
    """
    if scores.size > 256:
        best = np.argpartition(scores, scores.size - 64)[scores.size - 64 :]
        leader = float(np.max(scores[best] + gumbel(seed, pos, tokens[best])))
        contenders = scores + _LARGEST_NOISE >= leader
        tokens, scores = tokens[contenders], scores[contenders]
    return int(tokens[np.argmax(scores + gumbel(seed, pos, tokens))])


def _mixed(value: np.uint64 | NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Finalise a 64-bit word (splitmix64, Steele et al. 2014)."""
    word = np.asarray(value, dtype=np.uint64) + _GOLDEN
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = word ^ (word >> np.uint64(31))
    return mixed
