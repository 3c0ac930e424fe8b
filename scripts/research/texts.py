"""What models are compared on: answers that the target itself writes, greedily, to questions of several kinds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mpispec.compute.base import Floats, StageSize
from mpispec.compute.llama_stage import EXACT_ROWS, LlamaStage
from mpispec.compute.llama_vocabulary import Vocabulary
from mpispec.core.ids import NodeId, Pos, RequestId, RunId, SeqId, Token
from mpispec.core.messages import CacheOp, CacheOpKind, Row, Run
from mpispec.models import registry
from mpispec.serve.text.opening import open_template

QUESTIONS = (
    "Why is the sky blue?",
    "Write a Python function that returns the largest number of a list.",
    "Tell me a short story about a lighthouse keeper.",
    "How do I make pancakes?",
    "What is 17 plus 25? Explain each step.",
    "List five animals that live in the desert.",
    "Translate to French: Where is the railway station?",
    "Summarise the plot of Romeo and Juliet.",
    "Write an e-mail that asks a colleague to move a meeting.",
    "Who was Marie Curie?",
    "What are the benefits of regular exercise?",
    "Write a poem of four lines about autumn.",
)
"""Agreement is measured on the answers to these."""
CALIBRATION = (
    "How does a bicycle stay upright?",
    "Write a Python loop that prints the even numbers below 20.",
    "Describe a walk through an old town.",
    "What should I pack for a week in the mountains?",
)
"""Layers to leave out are chosen on the answers to these, so that the choice is not measured on its own examples."""

SEQUENCE = SeqId(0)
FORGET = CacheOp(CacheOpKind.DROP, SEQUENCE, SEQUENCE, Pos(0), -1)
"""Empties a cache that holds one text."""


@dataclass(frozen=True, slots=True)
class Text:
    """A question as the model reads it, and the answer that the target wrote."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    """At least one token; an end-of-text token included."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """Return what a model has to read to choose every token of the answer."""
        return self.prompt + self.answer[:-1]


class Sole:
    """A whole model that reads and writes one text at a time; chains only, so its bits are those of plain decoding."""

    def __init__(self, path: Path, max_tokens: int, threads: int) -> None:
        """Load it for texts of up to `max_tokens`. Raises ModelError."""
        n_layers = registry.inspect(path).layers
        self._stage = LlamaStage(
            path,
            StageSize(context=max_tokens, sequences=1, threads=threads, most_rows=EXACT_ROWS),
            first=True,
            last=True,
            n_layers=n_layers,
        )

    def write(self, prompt: Sequence[int], num_tokens: int, stops: frozenset[int]) -> Text:
        """Continue `prompt` greedily by up to `num_tokens`, or up to and with one of `stops`."""
        self._stage.apply([FORGET])
        answer = [int(self._choose(prompt, 0, len(prompt) - 1)[0])]
        while len(answer) < num_tokens and answer[-1] not in stops:
            start = len(prompt) + len(answer) - 1
            answer.append(int(self._choose(answer[-1:], start, start)[0]))
        return Text(tuple(prompt), tuple(answer))

    def choices(self, text: Text) -> NDArray[np.int64]:
        """Return the model's own choice at each position of the answer, given what stands before it."""
        self._stage.apply([FORGET])
        return self._choose(text.tokens, 0, len(text.prompt) - 1)

    def logits(self, text: Text) -> Floats:
        """Return the logits at each position of the answer: float32 [answer, vocabulary]."""
        self._stage.apply([FORGET])
        return np.concatenate(list(self._decide(text.tokens, 0, len(text.prompt) - 1)))

    def _choose(self, tokens: Sequence[int], start: int, decide_from: int) -> NDArray[np.int64]:
        return np.concatenate([np.argmax(logits, axis=1) for logits in self._decide(tokens, start, decide_from)])

    def _decide(self, tokens: Sequence[int], start: int, decide_from: int) -> Iterator[Floats]:
        for run in runs(tokens, start, decide_from):
            logits = self._stage.forward(run, None, bool)
            assert logits is not None, "nobody cancels"
            yield logits

    def close(self) -> None:
        """Free the memory."""
        self._stage.close()


@contextmanager
def loaded(path: Path, max_tokens: int, threads: int) -> Iterator[Sole]:
    """Load a whole model and free it afterwards. Raises ModelError."""
    model = Sole(path, max_tokens, threads)
    try:
        yield model
    finally:
        model.close()


def answers(path: Path, questions: Sequence[str], num_tokens: int, threads: int) -> list[Text]:
    """Have the model at `path` answer each question greedily, in its own chat template. Raises ModelError."""
    vocabulary = Vocabulary(path)
    try:
        prompts = [chat_prompt(vocabulary, question) for question in questions]
        stops = vocabulary.eog
    finally:
        vocabulary.close()
    with loaded(path, max(map(len, prompts)) + num_tokens, threads) as model:
        return [model.write(prompt, num_tokens, stops) for prompt in prompts]


def chat_prompt(vocabulary: Vocabulary, question: str) -> list[int]:
    """Return the tokens of a question in the model's own chat template. Raises ModelError."""
    text = open_template(vocabulary).render([{"role": "user", "content": question}])
    return list(vocabulary.tokenize(text, special=True))


def runs(tokens: Sequence[int], start: int, decide_from: int) -> Iterator[Run]:
    """Cut tokens at positions `start` ... into runs that are computed exactly; those from `decide_from` on decide."""
    for first in range(0, len(tokens), EXACT_ROWS):
        some = tokens[first : first + EXACT_ROWS]
        rows = (
            Row(RequestId(0), NodeId(pos), NodeId(pos - 1), Token(token), Pos(pos), SEQUENCE, pos >= decide_from)
            for pos, token in enumerate(some, start + first)
        )
        yield Run(RunId(0), tuple(rows))
