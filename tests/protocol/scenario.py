"""Random situations for the virtual cluster, each a function of its seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from mpispec.compute import toy
from mpispec.compute.llama_traits import DeferredFree
from mpispec.compute.toy import reference
from mpispec.core.config import HeadConfig
from mpispec.core.draft import DraftCore
from mpispec.core.head import HeadCore
from mpispec.core.ids import Actor, Token
from mpispec.core.stage import StageCore
from mpispec.core.strategy import Strategy, View
from mpispec.core.traits import BackendTraits
from mpispec.core.tree import Node, NodeState
from mpispec.drafters import alone, in_head
from mpispec.drafters.oracle import Oracle
from mpispec.drafters.suffix_store import SuffixStore
from mpispec.sim.cluster import VirtualCluster
from mpispec.sim.costs import Costs
from mpispec.strategies import PRESETS
from tests.protocol.playing import finish, submit
from tests.protocol.toys import Chaos, ScriptedDraft, ScriptedExits, ToyTarget

VOCABULARY = 5


class Bushy(Strategy):
    """Grows and dispatches trees of any shape, to test the head with more than today's strategies do.

    Unlike a real strategy it also drafts. Siblings are dispatched only under parents of earlier runs, as
    core/sequences.py demands.
    """

    lead = 6
    width = 3

    def __init__(self) -> None:
        self._random = random.Random(7)

    def choose(self, view: View) -> list[Node]:
        if view.tree.root.state is NodeState.PENDING:
            return [view.tree.root]
        dispatched = [node for node in view.tree.root.subtree() if node.state is NodeState.DISPATCHED]
        parent = self._random.choice(dispatched)
        if parent.pos - view.tree.root.pos >= self.lead or self._random.random() < 0.2:
            return []
        view.tree.add(parent, Token(self._random.randrange(VOCABULARY)), 0.5)
        ready = [child for child in parent.children if child.state is NodeState.PENDING]
        return ready[: self._random.randint(1, 3)]


DRAFTERS = ("draft", "ngram", "oracle", "none", "exit", "draft+ngram", "exit+ngram")
STRATEGIES: Mapping[str, Callable[[], Strategy]] = {**PRESETS, "bushy": Bushy}


@dataclass(frozen=True)
class Scenario:
    """One seed's situation."""

    seed: int
    strategy: str
    drafter: str
    acceptance_rate: float
    num_stages: int
    parallel: int
    prompts: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...]
    stop: int | None
    exits: tuple[tuple[Actor, float], ...] = ()
    """Stages with an exit, each with its acceptance rate; only where the drafter is `exit`."""
    draft_context: int | None = None
    has_own_cells: bool = False
    """Whether requests at once have cells of their own, which then keep the order that the toy's bits depend on."""

    @property
    def has_readers(self) -> bool:
        """Whether prompts have a way of their own through the stages (core/lanes.py)."""
        return self.has_own_cells and self.seed % 3 > 0

    def text(self, index: int) -> list[int]:
        """Return what the target alone writes after a prompt."""
        answer = reference(self.prompts[index], self.lengths[index], self.num_stages, VOCABULARY)
        return answer[: answer.index(self.stop) + 1] if self.stop in answer else answer


def draw(
    seed: int,
    strategies: Sequence[str] = tuple(STRATEGIES),
    drafters: Sequence[str] = DRAFTERS,
) -> Scenario:
    """Make a scenario from a seed."""
    rng = random.Random(seed)
    shared = [rng.randrange(VOCABULARY) for _ in range(8)]
    count = rng.randint(1, 4)
    strategy, drafter = rng.choice(strategies), rng.choice(drafters)
    rates = [0.0, 0.3, 0.7, 0.95, 1.0]
    acceptance_rate, num_stages = rng.choice(rates), rng.choice([1, 2, 3, 5])
    exits: list[tuple[Actor, float]] = []
    if drafter.startswith("exit"):
        stages = rng.sample(range(1, num_stages), rng.randint(0, num_stages - 1))
        exits = [(Actor(stage), rng.choice(rates)) for stage in sorted(stages)]
    return Scenario(
        seed=seed,
        strategy=strategy,
        drafter=drafter,
        acceptance_rate=acceptance_rate,
        num_stages=num_stages,
        exits=tuple(exits),
        parallel=(parallel := rng.choice([1, 1, 2, 3])),
        has_own_cells=parallel > 1 and seed // 4 % 2 == 0,
        prompts=tuple(
            tuple(shared[: rng.randint(1, 8)] + [rng.randrange(VOCABULARY) for _ in range(rng.randint(0, 3))])
            for _ in range(count)
        ),
        lengths=tuple(rng.randint(1, 16) for _ in range(count)),
        stop=rng.choice([None, None, 0]),
    )


def in_cell_order(most_cells: int, has_own_cells: bool = False) -> BackendTraits:
    """Return the traits of a toy in which the order of cells matters."""
    freeing = partial(DeferredFree, most_cells=most_cells)
    return BackendTraits(freeing=freeing, shares_cells=False, has_own_cells=has_own_cells)


def build(scenario: Scenario, costs: Costs | None = None) -> VirtualCluster:
    """Return the scenario's cluster with its requests, and some withdrawals, on the way; default: random delays."""
    rng = random.Random(scenario.seed + 1)
    num_stages = scenario.num_stages
    texts = [[*prompt, *scenario.text(index)] for index, prompt in enumerate(scenario.prompts)]
    has_draft = scenario.drafter.startswith("draft")
    own = scenario.has_own_cells
    keeps_order = own or scenario.parallel == 1
    readers = Actor(num_stages + has_draft) if scenario.has_readers else None
    config = HeadConfig(
        num_stages=num_stages,
        draft=Actor(num_stages + 1) if has_draft else None,
        context=64,
        sequences=scenario.parallel + rng.choice([0, 2, 5]),
        max_active=scenario.parallel,
        chunk=rng.choice([1, 3, 64]),
        first_queue=rng.choice([1, 2, 3]),
        traits=in_cell_order(rng.choice([2, 8, 64]), own) if keeps_order else toy.TRAITS,
        # Every other seed shares cores, so that `auto` waits, lets runs flow and silences the draft; no draw is spent.
        crowd=(1.0, 2.0)[scenario.seed // 2 % 2],
        draft_step=(1.0, 0.2)[scenario.seed % 2],
        draft_toll=(0.0, 0.2)[scenario.seed % 2] if has_draft else 0.0,
        draft_context=scenario.draft_context,
        readers=readers,
    )

    def oracle() -> Oracle:
        return Oracle(texts[0], scenario.acceptance_rate, VOCABULARY, scenario.seed)

    draft = None
    if has_draft:
        rate, context = scenario.acceptance_rate, scenario.draft_context
        scripted = ScriptedDraft(texts, rate, VOCABULARY, scenario.seed, context=context)
        sequences = scenario.parallel + rng.choice([0, 2, 8])
        draft = (DraftCore(rng.choice([1, 4, 64]), scenario.parallel, sequences), scripted)
    cluster = VirtualCluster(
        HeadCore(config, STRATEGIES, {**in_head(SuffixStore()), "oracle": alone(oracle)}),
        [
            StageCore(Actor(index), num_stages, 1000, has_exit=index in dict(scenario.exits))
            for index in range(1, num_stages + 1)
        ],
        draft,
        costs or Chaos(scenario.seed),
        ToyTarget(
            num_stages,
            VOCABULARY,
            ScriptedExits(texts, dict(scenario.exits), VOCABULARY, scenario.seed),
            in_order=keeps_order,
            own_cells=(scenario.parallel, config.sequences) if own else None,
        ),
        readers=[StageCore(stage, num_stages, 1000, readers=readers) for stage in config.stages[num_stages:]],
    )
    submit(scenario, cluster, scenario.drafter, rng)
    return cluster


def play(scenario: Scenario) -> int:
    """Run a scenario to its end and verify it; return the number of steps."""
    return finish(scenario, build(scenario))
