"""Log-probabilities of tokens, from what the engine hands on to OpenAI's forms. Pure.

Each token of a text has one entry, those that end it or complete a stop string included, as many as `usage` counts;
what a model thinks before it answers has none.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mpispec.core.messages import Score
from mpispec.serve.text.vocabulary import Vocabulary

_LEAST = -9999.0
"""Stands for nothing known where a form demands a number."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A token of a text, and what the model gave it."""

    piece: bytes
    offset: int
    """Characters of the text before it."""
    logprob: float | None
    """None for the first token of a prompt: nothing precedes it."""
    top: tuple[tuple[bytes, float], ...]
    """The likeliest tokens in its place, best first."""


class NumTop(NamedTuple):
    """How many of the likeliest tokens are named beside each token of a text; -1 where tokens are not scored."""

    answer: int = -1
    """And of a prompt that the answer repeats."""
    prompt: int = -1
    """Of the prompt by itself, as vLLM has it."""


class Scoring:
    """Puts scores and the tokens of one text together, as they come."""

    def __init__(self, vocabulary: Vocabulary, prompt: Sequence[int], echo: str | None, num_top: NumTop) -> None:
        """`echo` is the prompt as the text repeats it, where it does."""
        self._vocabulary = vocabulary
        self._prompt = prompt
        self._num_top = num_top
        self._echo = echo
        self._length = len(echo or "")
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._scores: dict[int, Score] = {}
        self._done: list[Scored] = []

    def take(self, scores: Iterable[Score]) -> None:
        """Take scores of tokens that the text has, or is about to have."""
        self._scores.update((score.pos, score) for score in scores)

    def prompt(self) -> tuple[Scored, ...]:
        """Return the scores of an echoed prompt, all of which must have come; none where tokens are not scored."""
        if self._num_top.answer < 0:
            return ()
        is_kept = self._num_top.prompt >= 0
        find = self._scores.get if is_kept else lambda pos: self._scores.pop(pos, None)
        named = [self._vocabulary.piece(token, special=True) for token in self._prompt]
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        ends = [0]
        whole = ""
        for piece in named:
            whole += decoder.decode(piece)
            ends.append(len(whole))
        echo = self._echo or ""
        # The token that begins a text, or a space that a tokenizer puts before the first word, is not in the text.
        surplus = len(whole) - len(echo) if whole.endswith(echo) else 0
        offsets = [min(max(0, end - surplus), len(echo)) for end in ends]
        return tuple(
            self._scored(piece, offset, find(pos))
            for pos, (piece, offset) in enumerate(zip(named, offsets, strict=False))
        )

    def push(self, token: int, index: int, is_thought: bool) -> None:
        """Take the next token of the answer, the `index`-th from 0 on."""
        score = self._scores.pop(len(self._prompt) + index, None)
        if score is None or is_thought or self._num_top.answer < 0:
            return
        self._done.append(self._scored(self._vocabulary.piece(token, special=True), self._length, score))
        if token not in self._vocabulary.eog:
            self._length += len(self._decoder.decode(self._vocabulary.piece(token)))

    def ranked(self) -> list[dict[str, Any] | None] | None:
        """Return vLLM's `prompt_logprobs`: for each token of the prompt itself and the likeliest in its place, by id.

        A token that is not among them has no rank: it was not counted. None for the first token, which nothing
        precedes; None altogether where the request does not ask.
        """
        if self._num_top.prompt < 0:
            return None
        return [self._ranks(self._scores.get(pos)) for pos in range(len(self._prompt))]

    def _ranks(self, score: Score | None) -> dict[str, Any] | None:
        if score is None:
            return None
        top = score.top[: self._num_top.prompt]
        ranks: dict[int, int] = {token: rank for rank, (token, _) in enumerate(top, 1)}
        return {
            str(token): {
                "logprob": logprob,
                "rank": ranks.get(token),
                "decoded_token": self._vocabulary.piece(token, special=True).decode("utf-8", "replace"),
            }
            for token, logprob in ((score.token, score.logprob), *top)
        }

    def drain(self) -> tuple[Scored, ...]:
        """Return the answer's tokens that have come since the last call."""
        done, self._done = tuple(self._done), []
        return done

    def _scored(self, piece: bytes, offset: int, score: Score | None) -> Scored:
        if score is None:
            return Scored(piece, offset, None, ())
        likeliest = score.top[: self._num_top.answer]
        top = tuple((self._vocabulary.piece(token, special=True), logprob) for token, logprob in likeliest)
        return Scored(piece, offset, score.logprob, top)


def spelled(piece: bytes) -> str:
    """Return a token as text; one that is no UTF-8 by itself as OpenAI spells it, `bytes:\\xe2\\x80`."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def of_chat(scores: Sequence[Scored]) -> dict[str, Any] | None:
    """Return the `logprobs` of a chat's choice; None where there are none."""
    if not scores:
        return None
    return {"content": of_output(scores), "refusal": None}


def of_output(scores: Sequence[Scored]) -> list[dict[str, Any]]:
    """Return the `logprobs` of a message of /v1/responses."""
    return [
        {
            **_token(scored.piece, _LEAST if scored.logprob is None else scored.logprob),
            "top_logprobs": [_token(piece, logprob) for piece, logprob in scored.top],
        }
        for scored in scores
    ]


def of_text(scores: Sequence[Scored]) -> dict[str, Any] | None:
    """Return the `logprobs` of a choice of /v1/completions; None where there are none.

    As with OpenAI a token is among its likeliest in any case, so that there may be one more of them.
    """
    if not scores:
        return None
    return {
        "text_offset": [scored.offset for scored in scores],
        "token_logprobs": [scored.logprob for scored in scores],
        "tokens": [spelled(scored.piece) for scored in scores],
        "top_logprobs": [_likeliest(scored) for scored in scores],
    }


def _token(piece: bytes, logprob: float) -> dict[str, Any]:
    return {"token": spelled(piece), "logprob": logprob, "bytes": list(piece)}


def _likeliest(scored: Scored) -> dict[str, float] | None:
    """Return the likeliest tokens by their texts; of two with one text the likelier counts."""
    if scored.logprob is None:
        return None
    found: dict[str, float] = {}
    for piece, logprob in (*scored.top, (scored.piece, scored.logprob)):
        found.setdefault(spelled(piece), logprob)
    return found
