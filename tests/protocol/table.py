"""One situation of the table strategy x temperature x drafter x stages, its details and its order drawn at random."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mpispec.compute import toy
from mpispec.compute.toy import ToyLayer, mixed
from mpispec.core.config import HeadConfig
from mpispec.core.draft import DraftCore
from mpispec.core.events import Payload
from mpispec.core.head import HeadCore
from mpispec.core.ids import Actor, Token
from mpispec.core.messages import Run, Sampling
from mpispec.core.stage import StageCore
from mpispec.drafters import alone, in_head
from mpispec.drafters.suffix_store import SuffixStore
from mpispec.sampling import decide
from mpispec.sim.cluster import VirtualCluster
from tests.protocol.playing import finish, submit
from tests.protocol.scenario import STRATEGIES, VOCABULARY, in_cell_order
from tests.protocol.toys import Chaos, ScriptedDraft, ToyTarget, run_rows

SURE = 0.9
"""Probability that an oracle of the table gives every draft token, right or wrong, so that it is dispatched."""
SAMPLED = Sampling(temperature=0.8, seed=29)

Character = Callable[[int, int], bool]
"""(position, seed) -> whether the draft token for it is right."""
ORACLES: Mapping[str, Character] = {
    "perfect": lambda pos, seed: True,
    "random": lambda pos, seed: mixed(seed * 1000 + pos) % 2 == 0,
    "wrong": lambda pos, seed: False,
    "alternating": lambda pos, seed: pos % 2 == 0,
}
DRAFTERS = ("ngram", "draft", "draft+ngram", *ORACLES)
_SPREAD = 8.0
"""Logits lie between 0 and this, so that at temperature 0.8 the second best often wins."""


class Oracle:
    """Knows what the target will write, and predicts that or another token according to its character."""

    def __init__(self, texts: Sequence[Sequence[int]], character: Character, seed: int) -> None:
        self._texts = texts
        self._character = character
        self._seed = seed
        self._text: Sequence[int] = ()
        self._tokens: Sequence[int] = ()

    def begin(self, tokens: Sequence[int]) -> None:
        """See `Predictor`."""
        self._text = next(text for text in self._texts if text[: len(tokens)] == list(tokens))
        self._tokens = tokens

    def observe(self) -> None:
        """The script does not depend on what was accepted."""

    def predict(self, path: Sequence[int], width: int) -> list[tuple[int, float]]:
        """See `Predictor`."""
        pos = len(self._tokens) + len(path)
        if pos >= len(self._text):
            return []
        right = self._text[pos]
        return [(right if self._character(pos, self._seed) else (right + 1) % VOCABULARY, SURE)]


def decided(value: int, sampling: Sampling, pos: int) -> Token:
    """Return the token at position `pos`, decided as on a real last stage from logits made of a row's value."""
    words = [mixed(value + token) >> 48 for token in range(VOCABULARY)]
    return Token(decide(np.array(words, np.float32) * np.float32(_SPREAD / 0xFFFF), sampling, pos))


class SamplingTarget(ToyTarget):
    """The toy, deciding by `mpispec.sampling` at any temperature."""

    def __init__(self, num_stages: int, sampling: Sampling, in_order: bool) -> None:
        super().__init__(num_stages, VOCABULARY, in_order=in_order)
        self._sampling = sampling

    def compute(self, stage: Actor, run: Run, payload: Payload) -> tuple[Payload, tuple[Token, ...]]:
        if stage != len(self._layers):
            return super().compute(stage, run, payload)
        outputs = run_rows(self._layers[stage - 1], run, payload)
        rows = zip(run.rows, outputs, strict=True)
        return None, tuple(decided(value, self._sampling, row.pos + 1) for row, value in rows if row.decide)


def written(prompt: Sequence[int], count: int, num_stages: int, sampling: Sampling) -> list[int]:
    """Return the `count` tokens that the target writes after `prompt`, without any pipeline."""
    layers = [ToyLayer(layer) for layer in range(num_stages)]
    tokens = list(prompt)
    for pos in range(len(prompt) + count - 1):
        value = tokens[pos]
        for layer in layers:
            value = layer.compute(pos, (0,), value)
        if pos + 1 == len(tokens):
            tokens.append(decided(value, sampling, pos + 1))
    return tokens[len(prompt) :]


@dataclass(frozen=True)
class Cell:
    """One cell of the table."""

    strategy: str
    sampling: Sampling
    drafter: str
    num_stages: int

    def __str__(self) -> str:
        return f"{self.strategy}-T{self.sampling.temperature:g}-{self.drafter}-D{self.num_stages}"


@dataclass(frozen=True)
class Circumstances:
    """What a situation depends on, apart from its cell."""

    seed: int
    """Of all delays, and of what a random drafter does."""
    prompts: tuple[tuple[int, ...], ...]
    length: int
    parallel: int
    chunk: int
    first_queue: int
    spare_sequences: int
    acceptance_rate: float
    """Of the draft."""


@dataclass(frozen=True)
class Situation:
    """A cell under certain circumstances; a `playing.Situation`."""

    cell: Cell
    given: Circumstances
    stop: int | None = None

    @property
    def seed(self) -> int:
        return self.given.seed

    @property
    def strategy(self) -> str:
        return self.cell.strategy

    @property
    def prompts(self) -> Sequence[Sequence[int]]:
        return self.given.prompts

    @property
    def lengths(self) -> Sequence[int]:
        return [self.given.length] * len(self.prompts)

    @cached_property
    def texts(self) -> list[list[int]]:
        """What the target writes after each prompt."""
        cell = self.cell
        return [written(prompt, self.given.length, cell.num_stages, cell.sampling) for prompt in self.prompts]

    def text(self, index: int) -> list[int]:
        return self.texts[index]

    def play(self) -> int:
        """Run it to its end and verify it; return the number of steps."""
        cluster = self._cluster()
        drafter = "oracle" if self.cell.drafter in ORACLES else self.cell.drafter
        submit(self, cluster, drafter, random.Random(self.seed), self.cell.sampling)
        return finish(self, cluster)

    def _cluster(self) -> VirtualCluster:
        cell, given = self.cell, self.given
        whole = [[*prompt, *text] for prompt, text in zip(self.prompts, self.texts, strict=True)]
        has_draft = cell.drafter.startswith("draft")
        config = HeadConfig(
            num_stages=cell.num_stages,
            draft=Actor(cell.num_stages + 1) if has_draft else None,
            context=64,
            sequences=given.parallel + given.spare_sequences,
            max_active=given.parallel,
            chunk=given.chunk,
            first_queue=given.first_queue,
            traits=in_cell_order(8) if given.parallel == 1 else toy.TRAITS,
        )
        drafters = in_head(SuffixStore())
        if cell.drafter in ORACLES:
            drafters["oracle"] = alone(lambda: Oracle(whole, ORACLES[cell.drafter], given.seed))
        draft = None
        if has_draft:
            scripted = ScriptedDraft(whole, given.acceptance_rate, VOCABULARY, given.seed)
            core = DraftCore(given.chunk, given.parallel, given.parallel + given.spare_sequences)
            draft = (core, scripted)
        return VirtualCluster(
            HeadCore(config, STRATEGIES, drafters),
            [StageCore(Actor(index), cell.num_stages, 1000) for index in range(1, cell.num_stages + 1)],
            draft,
            Chaos(given.seed),
            SamplingTarget(cell.num_stages, cell.sampling, in_order=given.parallel == 1),
        )
