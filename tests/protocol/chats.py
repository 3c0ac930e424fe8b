"""Random chats that take turns on one cluster: what their requests share, and an account of cells to compare with."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass

from mpispec.compute.toy import ToyLayer, reference
from mpispec.core.cache_operations import CacheOperations
from mpispec.core.config import HeadConfig
from mpispec.core.draft import DraftCore
from mpispec.core.effects import Effect, Emit
from mpispec.core.events import Event, Submitted, Tick, Withdrawn
from mpispec.core.head import HeadCore
from mpispec.core.ids import Actor, RequestId, Token
from mpispec.core.messages import Sampling
from mpispec.core.stage import StageCore
from mpispec.drafters import in_head
from mpispec.drafters.suffix_store import SuffixStore
from mpispec.sim.cluster import Answer, VirtualCluster
from tests.protocol.scenario import STRATEGIES
from tests.protocol.toys import Chaos, ScriptedDraft, ToyTarget

VOCABULARY = 5
DRAFTERS = ("draft", "ngram", "draft+ngram", "none")


@dataclass(frozen=True)
class Turn:
    """One request: a turn of a chat, submitted when the turn before has ended."""

    chat: int
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    after: int | None
    """The request that must have ended, if this is not the first turn."""
    patience: int | None
    """After how many tokens it is withdrawn; None: not at all."""
    priority: int = 0
    lasts: float | None = None
    """Virtual time after which it is to end with what it has."""


@dataclass(frozen=True)
class Chats:
    """One seed's chats."""

    seed: int
    strategy: str
    drafter: str
    num_stages: int
    parallel: int
    chunk: int
    spare_ids: int
    cells: int | None
    context: int
    turns: tuple[Turn, ...]

    @property
    def draft_cells(self) -> int | None:
        """Cells of the draft, which needs some for the draft tokens of a request at least."""
        return None if self.cells is None else self.context + 24


def draw(seed: int, has_budget: bool = True) -> Chats:
    """Make chats from a seed: they begin with a few system prompts, and grow turn by turn."""
    rng, other = random.Random(seed), random.Random(-seed - 1)
    num_stages = rng.choice([1, 2, 3])
    systems = [[rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 12))] for _ in range(2)]
    turns: list[Turn] = []
    for chat in range(rng.randint(1, 5)):
        text, last = list(rng.choice(systems)), None
        for _ in range(rng.randint(1, 3)):
            text += [rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 4))]
            answer = reference(text, rng.randint(1, 10), num_stages, VOCABULARY)
            patience = rng.randrange(len(answer)) if rng.random() < 0.15 else None
            priority = other.choice([0, 0, -1, 2])
            lasts = other.random() * 8 if other.random() < 0.15 else None
            turns.append(Turn(chat, tuple(text), tuple(answer), last, patience, priority, lasts))
            last = len(turns) - 1
            text = text + answer[: rng.choice([len(answer), len(answer), 1])]
    context = max(len(turn.prompt) + len(turn.answer) for turn in turns) + rng.choice([0, 5])
    return Chats(
        seed=seed,
        strategy=rng.choice(list(STRATEGIES)),
        drafter=rng.choice(DRAFTERS),
        num_stages=num_stages,
        parallel=rng.choice([1, 2, 3, 5]),
        chunk=rng.choice([1, 3, 64]),
        spare_ids=rng.choice([0, 1, 5, 20]),
        cells=context + rng.choice([0, 3, 20, 60]) if has_budget else None,
        context=context,
        turns=tuple(turns),
    )


class BoundedTarget(ToyTarget):
    """The toy with as many cells as the head was told: one more is an error."""

    def __init__(self, num_stages: int, cells: int | None) -> None:
        super().__init__(num_stages, VOCABULARY)
        if cells is not None:
            self._layers = [ToyLayer(layer, cells) for layer in range(num_stages)]

    @property
    def layers(self) -> Sequence[ToyLayer]:
        return self._layers


class BoundedDraft(ScriptedDraft):
    """The same of a draft."""

    def __init__(self, chats: Chats) -> None:
        super().__init__([[*turn.prompt, *turn.answer] for turn in chats.turns], 0.7, VOCABULARY, chats.seed)
        if chats.draft_cells is not None:
            self._layer = ToyLayer(-1, chats.draft_cells)

    @property
    def layers(self) -> Sequence[ToyLayer]:
        return [self._layer]


def assert_counted(cache: CacheOperations, layers: Sequence[ToyLayer]) -> None:
    """Assert that cells are counted as the toy has them, now that nothing is in flight."""
    for layer in layers:
        settled = copy.deepcopy(layer)
        settled.apply(cache._pending)
        assert settled.num_cells == cache.num_cells, "other cells are counted than there are"


class AccountedHead(HeadCore):
    """Compares its account of cells with the toy's whenever nothing is in flight."""

    target: BoundedTarget

    def handle(self, event: Event, now: float) -> list[Effect]:
        if not self._lanes:
            assert_counted(self._cache, self.target.layers)
        return super().handle(event, now)


class AccountedDraft(DraftCore):
    """The same of a draft."""

    model: BoundedDraft

    def handle(self, event: Event, now: float) -> list[Effect]:
        if not self._busy:
            assert_counted(self._cache, self.model.layers)
        return super().handle(event, now)


class ChatCluster(VirtualCluster):
    """Submits each turn when the one before has ended, and withdraws those whose patience is at its end."""

    chats: Chats

    def submit(self, index: int) -> None:
        turn, chats = self.chats.turns[index], self.chats
        tokens = tuple(Token(token) for token in turn.prompt)
        request = RequestId(index)
        count = len(turn.answer)
        deadline = None if turn.lasts is None else self.now + turn.lasts
        how = (frozenset[Token](), Sampling(), chats.strategy, chats.drafter)
        self.at(self.now, Submitted(request, tokens, count, *how, turn.priority, deadline))
        if deadline is not None:
            self.at(deadline, Tick())
        if turn.patience == 0:
            self.at(self.now, Withdrawn(request))

    def _perform(self, actor: Actor, effect: Effect) -> None:
        super()._perform(actor, effect)
        if not isinstance(effect, Emit):
            return
        turns, index = self.chats.turns, effect.request
        if effect.finish is not None:
            for after, turn in enumerate(turns):
                if turn.after == index:
                    self.submit(after)
        elif len(self.answers[index].tokens) == turns[index].patience:
            self.at(self.now, Withdrawn(effect.request))


def build(chats: Chats) -> ChatCluster:
    """Return a cluster with the first turn of each chat on its way."""
    num_stages, parallel = chats.num_stages, chats.parallel
    has_draft = chats.drafter.startswith("draft")
    config = HeadConfig(
        num_stages=num_stages,
        draft=Actor(num_stages + 1) if has_draft else None,
        context=chats.context,
        sequences=parallel + chats.spare_ids,
        max_active=parallel,
        chunk=chats.chunk,
        cells=chats.cells,
    )
    head = AccountedHead(config, STRATEGIES, in_head(SuffixStore()))
    head.target = BoundedTarget(num_stages, chats.cells)
    draft = None
    if has_draft:
        core = AccountedDraft(chats.chunk, parallel, parallel + chats.spare_ids, cells=chats.draft_cells)
        core.model = BoundedDraft(chats)
        draft = (core, core.model)
    stages = [StageCore(stage, num_stages, 1000) for stage in config.stages]
    cluster = ChatCluster(head, stages, draft, Chaos(chats.seed), head.target)
    cluster.chats = chats
    for index, turn in enumerate(chats.turns):
        if turn.after is None:
            cluster.submit(index)
    return cluster


def play(chats: Chats) -> dict[int, Answer]:
    """Run chats to their end and verify every answer and every cell; return the answers by request."""
    return played(chats).answers


def played(chats: Chats) -> ChatCluster:
    """Run chats to their end and verify every answer and every cell; return the cluster."""
    cluster = build(chats)
    cluster.run()
    cluster.check_drained()
    for index, turn in enumerate(chats.turns):
        tokens = cluster.answers[index].tokens
        if cluster.answers[index].finish in ("cancelled", "timeout"):
            assert tokens == list(turn.answer[: len(tokens)])
        else:
            assert tokens == list(turn.answer), f"seed {chats.seed}, request {index}"
    return cluster
