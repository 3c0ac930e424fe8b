"""Random cascades for the virtual cluster, each a function of its seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mpispec.compute.toy import ToyLayer, reference
from mpispec.core.config import HeadConfig
from mpispec.core.draft import DraftCore
from mpispec.core.events import Payload
from mpispec.core.head import HeadCore
from mpispec.core.ids import Actor, Token
from mpispec.core.level import LevelCore
from mpispec.core.messages import CacheOp, CacheOpKind, Message, Run
from mpispec.core.sequences import row_labels
from mpispec.core.stage import StageCore
from mpispec.sim.cascade import Agreement, Cascade, LowestLevel, ScriptedLevel, drawn, extended
from mpispec.sim.cluster import Level, VirtualCluster
from mpispec.sim.costs import Costs
from mpispec.strategies import PRESETS
from mpispec.strategies.pipespec import PipeSpec
from tests.protocol.playing import finish, submit
from tests.protocol.toys import Chaos, ToyTarget, pack_values, run_half, run_rows

VOCABULARY = 5
STRATEGIES = {**PRESETS, "shortsighted": lambda: PipeSpec(lookahead=3, most_rows=2)}
CHARACTERS = ("perfect", "random", "wrong", "alternating")


def agreement(character: str, rate: float, salt: int) -> Agreement:
    """Return how a level agrees with the one above."""
    if character == "random":
        return drawn(rate, salt)
    return {
        "perfect": lambda pos, key: True,
        "wrong": lambda pos, key: False,
        "alternating": lambda pos, key: pos % 2 == 0,
    }[character]


class ToyLevel(ScriptedLevel):
    """Writes what the cascade says, and asserts that each row's toy cells have the values of its own text.

    The text is read from tokens that lie next to the cells, because nodes have other numbers when a request goes on
    that had to give up its cells.
    """

    def __init__(self, cascade: Cascade, level: int, num_stages: int = 1) -> None:
        super().__init__(cascade, level, num_stages)
        self._layers = [ToyLayer(layer) for layer in range(num_stages)]
        self._tokens: list[list[tuple[int, set[int], Token]]] = [[] for _ in range(num_stages)]
        """By stage: position, labels and token of each cell."""
        self._known: dict[tuple[Token, ...], list[int]] = {}

    def hear(self, message: Message) -> None:
        """Nothing: all texts are in the cells."""

    def apply(self, stage: Actor, cache_ops: Sequence[CacheOp]) -> None:
        self._layers[stage - 1].apply(cache_ops)
        for kind, src, dst, start, end in cache_ops:
            for pos, labels, _ in self._tokens[stage - 1]:
                if src in labels and start <= pos and (end < 0 or pos < end):
                    labels.add(dst) if kind is CacheOpKind.SHARE else labels.discard(src)
        self._tokens[stage - 1] = [cell for cell in self._tokens[stage - 1] if cell[1]]

    def compute(self, stage: Actor, run: Run, payload: Payload) -> tuple[Payload, tuple[Token, ...]]:
        outputs = run_rows(self._layers[stage - 1], run, payload)
        texts = self._texts(stage, run)
        for text, output in zip(texts, outputs, strict=True):
            assert output == self._expected(text)[stage - 1], f"stage {stage} of a level read cells of another text"
        if stage != self._last:
            return pack_values(outputs), ()
        return None, tuple(self._after(text) for row, text in zip(run.rows, texts, strict=True) if row.decide)

    def give_up(self, stage: Actor, run: Run, payload: Payload) -> None:
        run_half(self._layers[stage - 1], run, payload)
        self._texts(stage, run._replace(rows=run.rows[: len(run.rows) // 2]))

    def _texts(self, stage: Actor, run: Run) -> list[tuple[Token, ...]]:
        """Write the tokens of a run's rows; return the text of each."""
        texts, cells = [], self._tokens[stage - 1]
        for row, labels in zip(run.rows, row_labels(run), strict=True):
            before = {pos: token for pos, mine, token in cells if row.seq in mine and pos < row.pos}
            cells.append((row.pos, set(labels), row.token))
            texts.append((*(before[pos] for pos in range(row.pos)), row.token))
        return texts

    def _after(self, text: tuple[Token, ...]) -> Token:
        key = 0
        for token in text:
            key = extended(key, token)
        return self._cascade.after(self._level, len(text), key)

    def _expected(self, text: tuple[Token, ...]) -> list[int]:
        """Return what each stage puts out for the last token of a text."""
        if text not in self._known:
            layers = [ToyLayer(layer) for layer in range(len(self._layers))]
            for pos, token in enumerate(text):
                values: list[int] = [token]
                for layer in layers:
                    values.append(layer.compute(pos, (0,), values[-1]))
                self._known[text[: pos + 1]] = values[1:]
        return self._known[text]


MOST_TOKENS = 27
"""Of a request, prompt and answer together."""


@dataclass(frozen=True)
class Scenario:
    """One seed's cascade; lists run from the level below the target down."""

    seed: int
    strategy: str
    characters: tuple[str, ...]
    rates: tuple[float, ...]
    stages: tuple[int, ...]
    """Of the target and of each level but the lowest."""
    parallel: int
    prompts: tuple[tuple[Token, ...], ...]
    lengths: tuple[int, ...]
    stop: Token | None
    cells: int | None = None
    """Of each pipeline; at least `MOST_TOKENS`."""

    def text(self, index: int) -> list[int]:
        """Return what the target alone writes after a prompt."""
        answer = reference(self.prompts[index], self.lengths[index], self.stages[0], VOCABULARY)
        return answer[: answer.index(self.stop) + 1] if self.stop in answer else answer


def draw(seed: int, depth: int | None = None, character: str | None = None) -> Scenario:
    """Make a scenario from a seed, with `depth` models below the target."""
    rng = random.Random(seed)
    depth = depth or rng.choice([1, 2, 3])
    shared = [Token(rng.randrange(VOCABULARY)) for _ in range(8)]
    count = rng.randint(1, 3)
    return Scenario(
        seed=seed,
        strategy=rng.choice(list(STRATEGIES)),
        characters=tuple(character or rng.choice(CHARACTERS) for _ in range(depth)),
        rates=tuple(rng.choice([0.3, 0.7, 0.95]) for _ in range(depth)),
        stages=tuple(rng.choice([1, 1, 2, 3]) for _ in range(depth)),
        parallel=rng.choice([1, 1, 2]),
        prompts=tuple(
            tuple(shared[: rng.randint(1, 8)] + [Token(rng.randrange(VOCABULARY)) for _ in range(rng.randint(0, 3))])
            for _ in range(count)
        ),
        lengths=tuple(rng.randint(1, 16) for _ in range(count)),
        stop=rng.choice([None, None, Token(0)]),
    )


def crowded(seed: int) -> Scenario:
    """Make a scenario in which target and levels have to preempt requests."""
    scenario = draw(seed)
    prompts = (*scenario.prompts, *(prompt[::-1] for prompt in scenario.prompts))
    cells = MOST_TOKENS + seed % 4
    return replace(scenario, parallel=3, prompts=prompts, lengths=(16,) * len(prompts), cells=cells)


def build(scenario: Scenario, costs: Costs | None = None) -> VirtualCluster:
    """Return the scenario's cluster with its requests, and some withdrawals, on the way; default: random delays."""
    rng = random.Random(scenario.seed + 1)
    texts = [[*prompt, *map(Token, scenario.text(index))] for index, prompt in enumerate(scenario.prompts)]
    kinds = zip(scenario.characters, scenario.rates, strict=True)
    cascade = Cascade(texts, [agreement(kind, rate, salt) for salt, (kind, rate) in enumerate(kinds)], VOCABULARY)
    heads, stages = [], []
    actor = 0
    for num_stages in scenario.stages:
        config = HeadConfig(
            num_stages=num_stages,
            draft=Actor(actor + num_stages + 1),
            context=64 if scenario.cells is None else MOST_TOKENS,
            cells=scenario.cells,
            sequences=scenario.parallel + rng.choice([0, 1, 4]),
            max_active=scenario.parallel,
            chunk=rng.choice([1, 3, 64]),
            first_queue=rng.choice([1, 2, 3]),
            name=f"level {len(scenario.stages) - len(heads)}",
            actor=Actor(actor),
        )
        heads.append(HeadCore(config, STRATEGIES, {}))
        stages.append([StageCore(stage, num_stages, 1000, Actor(actor)) for stage in config.stages])
        actor += num_stages + 1
    above = [head.config.actor for head in heads]
    levels = [
        Level(
            LevelCore(heads[index], above[index - 1], rng.choice(list(STRATEGIES))),
            stages[index],
            ToyLevel(cascade, index, scenario.stages[index]),
        )
        for index in range(1, len(heads))
    ]
    sequences = scenario.parallel + rng.choice([0, 2, 8])
    draft = DraftCore(rng.choice([1, 4, 64]), scenario.parallel, sequences, above[-1])
    lowest = LowestLevel(ToyLevel(cascade, len(heads)), prob=0.7)
    costs = costs or Chaos(scenario.seed)
    toy = ToyTarget(len(stages[0]), VOCABULARY)
    cluster = VirtualCluster(heads[0], stages[0], (draft, lowest), costs, toy, levels=levels)
    submit(scenario, cluster, "draft", rng)
    return cluster


def play(scenario: Scenario) -> int:
    """Run a scenario to its end and verify it; return the number of steps."""
    return finish(scenario, build(scenario))
