"""One situation of the table strategy x temperature x drafter x stages, its details and its order drawn at random."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np

from mpispec.compute import toy
from mpispec.compute.base import Floats
from mpispec.compute.toy import ToyLayer, mixed
from mpispec.core.config import HeadConfig
from mpispec.core.draft import DraftCore
from mpispec.core.effects import CloseSampler, Effect, OpenSampler
from mpispec.core.events import Payload
from mpispec.core.head import HeadCore
from mpispec.core.ids import Actor, Token
from mpispec.core.messages import Run, Sampling, Score
from mpispec.core.stage import StageCore
from mpispec.drafters import alone, in_head
from mpispec.drafters.suffix_store import SuffixStore
from mpispec.runtime.decider import Decider
from mpispec.sampling import adjusted, decide
from mpispec.sim.cluster import VirtualCluster
from tests.protocol.playing import finish, placed, submit
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


Cluster = TypeVar("Cluster", bound=VirtualCluster)


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


def logits_of(value: int) -> Floats:
    """Return the logits that a row's value stands for."""
    words = [mixed(value + token) >> 48 for token in range(VOCABULARY)]
    return np.array(words, np.float32) * np.float32(_SPREAD / 0xFFFF)


def decided(value: int, sampling: Sampling, path: Sequence[int]) -> Token:
    """Return the token after a path, decided as on a real last stage from logits made of its last row's value."""
    logits = adjusted(logits_of(value), sampling, len(path), np.array(path, np.int32))
    return Token(decide(logits, sampling, len(path)))


class SamplingTarget(ToyTarget):
    """The toy, deciding as a real last stage does; it must `watch` the cluster to hear of requests."""

    def __init__(self, num_stages: int, in_order: bool) -> None:
        super().__init__(num_stages, VOCABULARY, in_order=in_order)
        self._decider = Decider()
        self._scores: tuple[Score | None, ...] = ()

    def watch(self, actor: Actor, effect: Effect) -> None:
        """Do the jobs of a last stage that are not answered."""
        match effect:
            case OpenSampler(opened) if actor == len(self._layers):
                self._decider.open(opened)
            case CloseSampler(request) if actor == len(self._layers):
                self._decider.close(request)

    def compute(self, stage: Actor, run: Run, payload: Payload) -> tuple[Payload, tuple[Token, ...]]:
        if stage != len(self._layers):
            return super().compute(stage, run, payload)
        outputs = run_rows(self._layers[stage - 1], run, payload)
        self._decider.note(run.rows)
        lines = [logits_of(value) for row, value in zip(run.rows, outputs, strict=True) if row.decide]
        logits = np.array(lines, np.float32).reshape(-1, VOCABULARY)
        tokens = self._decider.decide(run.rows, logits)
        self._scores = self._decider.scores(run.rows, logits, tokens)
        return None, tokens

    def take_scores(self) -> tuple[Score | None, ...]:
        """Return the scores of what was decided last, once."""
        scores, self._scores = self._scores, ()
        return scores


def written(prompt: Sequence[int], count: int, num_stages: int, sampling: Sampling) -> list[int]:
    """Return the `count` tokens that the target writes after `prompt`, without any pipeline."""
    layers = [ToyLayer(layer) for layer in range(num_stages)]
    how = placed(sampling, prompt)
    tokens = list(prompt)
    for pos in range(len(prompt) + count - 1):
        value = tokens[pos]
        for layer in layers:
            value = layer.compute(pos, (0,), value)
        if pos + 1 == len(tokens):
            tokens.append(decided(value, how, tokens))
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
    cells: int | None = None
    """Of each stage, for requests that share them; None: as many as these may need."""


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

    def play(self, cluster: VirtualCluster | None = None) -> int:
        """Run it to its end, on a cluster of its own or this, and verify it; return the number of steps."""
        cluster = cluster or self.cluster()
        drafter = "oracle" if self.cell.drafter in ORACLES else self.cell.drafter
        submit(self, cluster, drafter, random.Random(self.seed), self.cell.sampling)
        return finish(self, cluster)

    def cluster(self, kind: type[Cluster] = VirtualCluster) -> Cluster:
        """Return a cluster without requests."""
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
            cells=given.cells,
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
        target = SamplingTarget(cell.num_stages, in_order=given.parallel == 1)
        cluster = kind(
            HeadCore(config, STRATEGIES, drafters),
            [StageCore(Actor(index), cell.num_stages, 1000) for index in range(1, cell.num_stages + 1)],
            draft,
            Chaos(given.seed),
            target,
        )
        cluster.watch = target.watch
        return cluster
