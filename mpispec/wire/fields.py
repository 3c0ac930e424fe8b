"""How one field of a message looks inside the msgpack header, and what is checked when it comes back.

A field is a pair of functions: `pack` to a plain msgpack value, `unpack` from whatever a peer put there. Integer
lists travel as one little-endian array, because that beats a msgpack list in bytes and in time (measured here: 64
rows by `struct` 7 us to pack and 19 us to unpack, by numpy 24 and 19, by `array` 17; one row 0.5 and 0.4, 0.9 and
2.9, 0.5). Every unpack function raises PeerProtocolError and allocates no more than a small multiple of its input.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple

from mpispec.core.messages import Branch, CacheOp, CacheOpKind, Row, Sampling, Score


class PeerProtocolError(Exception):
    """A peer sent bytes that are not a valid frame; the text is one sentence."""


class LocalProtocolError(Exception):
    """This rank tried to send what no peer would accept: a bug of ours; the text is one sentence."""


MAX_SEED = 2**64 - 1
SAMPLING_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 1e6),
    "top_k": (0, 2**31 - 1),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repeat_penalty": (0.01, 1e6),
    "repeat_last_n": (0, 2**31 - 1),
    "seed": (0, MAX_SEED),
    "presence_penalty": (-100.0, 100.0),
    "frequency_penalty": (-100.0, 100.0),
    "begins": (0, 2**31 - 1),
    "held_to": (0, 2**31 - 1),
    "top_logprobs": (-1, 20),
}
"""The least and the largest value of each number in `Sampling`: what a message may hold and a float32 can bear."""
MOST_GRAMMAR_BYTES = 256 << 10
"""Bytes of a grammar's text in UTF-8."""
MOST_BIASES = 2048
"""Entries of `Sampling.logit_bias`: a request's own, and the tokens that end a text."""
MOST_BIAS = 1e6
"""Largest of them, in either direction."""
MOST_HELD = 1024
"""Entries of `Sampling.held`."""

_LEAST_LOGPROB = -1e4
_MOST_TOP = int(SAMPLING_RANGES["top_logprobs"][1])
INT32_MAX = 2**31 - 1
INT63_MAX = 2**63 - 1
PROBABILITY_MAX = 1.001
"""Rounding in a float32 softmax may carry a probability a little past one; that is no reason to end the job."""

_ROW = struct.Struct("<7i")
_CACHE_OP = struct.Struct("<5i")
_BRANCH = struct.Struct("<4i")
_BIAS = struct.Struct("<id")
_SCORE = struct.Struct("<iiid")
"""Position, token, number of likeliest tokens that follow, logarithm; -1 of them where there is no score."""
_TOP = struct.Struct("<id")
_CACHE_OP_KINDS = tuple(CacheOpKind)
_new_tuple = tuple.__new__


class Field(NamedTuple):
    """One field's two directions."""

    pack: Callable[[Any], Any]
    unpack: Callable[[Any], Any]


def _same(value: Any) -> Any:
    return value


def _integer(low: int, high: int) -> Callable[[Any], int]:
    def unpack(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise PeerProtocolError(f"A peer sent {value!r:.40} where an integer from {low} to {high} belongs.")
        return value

    return unpack


def _boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise PeerProtocolError(f"A peer sent {value!r:.40} where a truth value belongs.")
    return value


def _number(low: float, high: float) -> Callable[[Any], float]:
    def unpack(value: Any) -> float:
        if type(value) is not float or not low <= value <= high:
            raise PeerProtocolError(f"A peer sent {value!r:.40} where a number from {low} to {high} belongs.")
        return value

    return unpack


def _checked_bytes(value: Any, item_size: int, what: str) -> bytes:
    if type(value) is not bytes or len(value) % item_size:
        raise PeerProtocolError(f"A peer sent something other than whole {what} where {what} belong.")
    return value


def _array(code: str, what: str, least: int = 0) -> Field:
    """Build the field of a tuple of integers, none below `least`, as an array of struct code `code`."""
    item_size = struct.calcsize(f"<{code}")

    def pack(values: tuple[int, ...]) -> bytes:
        return struct.pack(f"<{len(values)}{code}", *values)

    def unpack(value: Any) -> tuple[int, ...]:
        blob = _checked_bytes(value, item_size, what)
        numbers = struct.unpack(f"<{len(blob) // item_size}{code}", blob)
        if numbers and min(numbers) < least:
            raise PeerProtocolError(f"A peer sent {what} with a number below {least} among them.")
        return numbers

    return Field(pack, unpack)


def _pack_probs(values: tuple[float, ...]) -> bytes:
    return struct.pack(f"<{len(values)}d", *values)


def _unpack_probs(value: Any) -> tuple[float, ...]:
    blob = _checked_bytes(value, 8, "probabilities")
    probs = struct.unpack(f"<{len(blob) // 8}d", blob)
    if not all(0.0 <= prob <= PROBABILITY_MAX for prob in probs):  # written so that NaN fails too
        raise PeerProtocolError("A peer sent a probability outside 0 to 1.")
    return probs


def _pack_records(records: tuple[tuple[int, ...], ...]) -> bytes:
    """Write tuples of int32, all of one length, one after the other."""
    if not records:  # as cache operations and branches of most runs
        return b""
    return struct.pack(f"<{len(records) * len(records[0])}i", *chain.from_iterable(records))


def _unpack_rows(value: Any) -> tuple[Row, ...]:
    rows = []
    for request, node, parent, token, pos, seq, decide in _ROW.iter_unpack(_checked_bytes(value, _ROW.size, "rows")):
        # An OR of integers is negative if one of them is; a shifted flag is zero only for 0 and 1.
        if (request | node | (parent + 1) | token | pos | seq) < 0 or decide >> 1:
            raise PeerProtocolError("A peer sent a row with a number out of range.")
        rows.append(_new_tuple(Row, (request, node, parent, token, pos, seq, decide == 1)))
    return tuple(rows)


def _unpack_cache_ops(value: Any) -> tuple[CacheOp, ...]:
    if value == b"":  # as in most runs
        return ()
    cache_ops = []
    for op, src, dst, start, end in _CACHE_OP.iter_unpack(_checked_bytes(value, _CACHE_OP.size, "cache operations")):
        if (src | dst | start | (end + 1)) < 0 or not 0 <= op < len(_CACHE_OP_KINDS):
            raise PeerProtocolError("A peer sent a cache operation with a number out of range.")
        cache_ops.append(_new_tuple(CacheOp, (_CACHE_OP_KINDS[op], src, dst, start, end)))
    return tuple(cache_ops)


def _unpack_branches(value: Any) -> tuple[Branch, ...]:
    if value == b"":  # as in most runs
        return ()
    branches = []
    for src, dst, start, end in _BRANCH.iter_unpack(_checked_bytes(value, _BRANCH.size, "branches")):
        if (src | dst | start | end) < 0:
            raise PeerProtocolError("A peer sent a branch with a number out of range.")
        branches.append(_new_tuple(Branch, (src, dst, start, end)))
    return tuple(branches)


def _pack_scores(scores: tuple[Score | None, ...]) -> bytes:
    parts = []
    for score in scores:
        if score is None:
            parts.append(_SCORE.pack(0, 0, -1, 0.0))
            continue
        parts.append(_SCORE.pack(score.pos, score.token, len(score.top), score.logprob))
        parts += [_TOP.pack(token, logprob) for token, logprob in score.top]
    return b"".join(parts)


def _unpack_scores(value: Any) -> tuple[Score | None, ...]:
    if value == b"":  # as in most results
        return ()
    blob = _checked_bytes(value, 4, "scores")
    scores: list[Score | None] = []
    start = 0
    while start < len(blob):
        if len(blob) - start < _SCORE.size:
            raise PeerProtocolError("A peer sent a score that is cut off.")
        pos, token, count, logprob = _SCORE.unpack_from(blob, start)
        start += _SCORE.size
        if count == -1:
            scores.append(None)
            continue
        end = start + count * _TOP.size
        if not 0 <= count <= _MOST_TOP or end > len(blob):
            raise PeerProtocolError("A peer sent a score with too many tokens, or too few.")
        top = tuple(_TOP.iter_unpack(blob[start:end]))
        start = end
        if min(pos, token, *(other for other, _ in top)) < 0 or not _are_logprobs(logprob, *(log for _, log in top)):
            raise PeerProtocolError("A peer sent a score with a number out of range.")
        scores.append(_new_tuple(Score, (pos, token, logprob, top)))
    return tuple(scores)


def _are_logprobs(*values: float) -> bool:
    return all(_LEAST_LOGPROB <= value <= 0.0 for value in values)  # written so that NaN fails too


def _sampling_field(low: float, high: float) -> Field:
    return Field(int, _integer(low, int(high))) if isinstance(low, int) else Field(float, _number(low, high))


def _pack_biases(biases: tuple[tuple[int, float], ...]) -> bytes:
    return b"".join(_BIAS.pack(token, bias) for token, bias in biases)


def _unpack_biases(value: Any) -> tuple[tuple[int, float], ...]:
    biases = tuple(_BIAS.iter_unpack(_checked_bytes(value, _BIAS.size, "biases")))
    # Written so that NaN fails too.
    if len(biases) > MOST_BIASES or not all(token >= 0 and abs(bias) <= MOST_BIAS for token, bias in biases):
        raise PeerProtocolError("A peer sent too many biases, or one that is out of range.")
    return biases


def _unpack_held(value: Any) -> tuple[int, ...]:
    held: tuple[int, ...] = TOKENS.unpack(value)
    if len(held) > MOST_HELD:
        raise PeerProtocolError(f"A peer sent more than {MOST_HELD} tokens to hold back.")
    return held


def _pack_grammar(grammar: str) -> bytes:
    text = grammar.encode()
    if len(text) > MOST_GRAMMAR_BYTES:
        raise ValueError(f"a grammar of {len(text)} bytes")
    return text


def _unpack_grammar(value: Any) -> str:
    text = _checked_bytes(value, 1, "bytes of a grammar")
    if len(text) > MOST_GRAMMAR_BYTES:
        raise PeerProtocolError(f"A peer sent a grammar of {len(text)} bytes, more than {MOST_GRAMMAR_BYTES}.")
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise PeerProtocolError("A peer sent a grammar that is not UTF-8.") from None


FLAG = Field(bool, _boolean)
TOKENS = _array("i", "tokens")
_SAMPLING = {name: _sampling_field(low, high) for name, (low, high) in SAMPLING_RANGES.items()} | {
    "logit_bias": Field(_pack_biases, _unpack_biases),
    "held": Field(TOKENS.pack, _unpack_held),
    "scores_prompt": FLAG,
    "grammar": Field(_pack_grammar, _unpack_grammar),
}
"""In the order of `Sampling`."""


def _pack_sampling(sampling: Sampling) -> list[Any]:
    return [field.pack(getattr(sampling, name)) for name, field in _SAMPLING.items()]


def _unpack_sampling(value: Any) -> Sampling:
    if type(value) is not tuple or len(value) != len(_SAMPLING):
        raise PeerProtocolError(f"A peer sent something other than {len(_SAMPLING)} sampling parameters.")
    return Sampling(*(field.unpack(item) for item, field in zip(value, _SAMPLING.values(), strict=True)))


INT32 = Field(_same, _integer(0, INT32_MAX))
"""A request, a position, an actor: any number that a row has too."""
INT63 = Field(_same, _integer(0, INT63_MAX))
"""A counter that only grows."""
PROB = Field(float, _number(0.0, 1.0))
RUN_IDS = _array("q", "run ids")
PARENTS = _array("q", "parents", least=-1)
PROBS = Field(_pack_probs, _unpack_probs)
ROWS = Field(_pack_records, _unpack_rows)
CACHE_OPS = Field(_pack_records, _unpack_cache_ops)
BRANCHES = Field(_pack_records, _unpack_branches)
SCORES = Field(_pack_scores, _unpack_scores)
SAMPLING = Field(_pack_sampling, _unpack_sampling)
