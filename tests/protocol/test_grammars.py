"""The real cores, deciders and grammars on a virtual clock: any order of messages leaves the text as it is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from test_grammars import EOG, GRAMMAR, SIZE, Words, read

from mpispec.core.config import HeadConfig
from mpispec.core.draft import DraftCore
from mpispec.core.effects import CloseSampler, Effect, OpenSampler
from mpispec.core.events import Payload, Submitted
from mpispec.core.head import HeadCore
from mpispec.core.ids import Actor, RequestId, Token
from mpispec.core.messages import Run, Sampling
from mpispec.core.stage import StageCore
from mpispec.drafters import in_head
from mpispec.drafters.suffix_store import SuffixStore
from mpispec.grammars.compiler import Compiler
from mpispec.grammars.walk import Walk
from mpispec.runtime.decider import Decider
from mpispec.sim.cluster import VirtualCluster
from mpispec.strategies import PRESETS
from tests.protocol.toys import Chaos, ScriptedDraft, ToyTarget, run_rows

pytestmark = pytest.mark.protocol

PROMPT = tuple(map(Token, (1, 2, 3, 4)))
STAGES, REQUESTS, TOKENS, CELLS = 3, 3, 40, 50
COMPILER = Compiler(Words)


class Grammatical(ToyTarget):
    """The toy model, whose last outputs seed logits from which a `Decider` draws."""

    def __init__(self) -> None:
        super().__init__(STAGES, SIZE)
        self._decider = Decider(COMPILER.walk)

    def watch(self, actor: Actor, effect: Effect) -> None:
        """Open and close requests as the last stage does."""
        if isinstance(effect, OpenSampler) and actor == STAGES:
            self._decider.open(effect.opened)
        elif isinstance(effect, CloseSampler) and actor == STAGES:
            self._decider.close(effect.request)

    def compute(self, stage: Actor, run: Run, payload: Payload) -> tuple[Payload, tuple[Token, ...]]:
        """See `Target`."""
        if stage != STAGES:
            return super().compute(stage, run, payload)
        outputs = run_rows(self._layers[stage - 1], run, payload)
        self._decider.note(run.rows)
        seeds = [value for row, value in zip(run.rows, outputs, strict=True) if row.decide]
        logits = np.array([np.random.default_rng(seed).normal(size=SIZE) for seed in seeds], np.float32)
        logits = logits.reshape(-1, SIZE)
        logits[:, ord("a") : ord("z")] += 2.0  # so that texts end
        return None, self._decider.decide(run.rows, logits)


def compiled(text: str) -> Callable[[], Walk]:
    walk = COMPILER.walk(text)
    return lambda: walk


def written(
    strategy: str, drafter: str, seed: int, texts: list[list[int]] | None = None
) -> tuple[list[list[int]], int]:
    """Return the answers to all requests, and how often one had to give up its cells; `texts` is what drafts know."""
    is_drafted = drafter.startswith("draft")
    config = HeadConfig(
        STAGES,
        Actor(STAGES + 1) if is_drafted else None,
        context=len(PROMPT) + TOKENS,
        sequences=16,
        max_active=REQUESTS,
        cells=CELLS,
    )
    target = Grammatical()
    scripted = ScriptedDraft(texts or [], 0.6, SIZE, seed)
    cluster = VirtualCluster(
        HeadCore(config, PRESETS, in_head(SuffixStore(), compiled)),
        [StageCore(Actor(index), STAGES, 1000) for index in range(1, STAGES + 1)],
        (DraftCore(4, REQUESTS, 32), scripted) if is_drafted else None,
        Chaos(seed),
        target,
    )
    cluster.watch = target.watch
    for number in range(REQUESTS):
        sampling = Sampling(temperature=1.0, seed=number, grammar=GRAMMAR, begins=len(PROMPT))
        stops = frozenset([Token(EOG)])
        cluster.at(0.0, Submitted(RequestId(number), PROMPT, TOKENS, stops, sampling, strategy, drafter))
    cluster.run()
    answers = [cluster.answers[number] for number in range(REQUESTS)]
    return [answer.tokens for answer in answers], sum(answer.statistics.preemptions for answer in answers)


@pytest.fixture(scope="module")
def alone() -> list[list[int]]:
    """Return the answers without speculation, which are complete."""
    answers, _ = written("plain", "none", 0)
    for answer in answers:
        assert answer[-1] == EOG and isinstance(read(answer[:-1]), dict)
    return answers


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("strategy", "drafter"),
    [("auto", "ngram"), ("pipeinfer", "draft"), ("specpipe", "draft"), ("sync", "draft+ngram"), ("plain", "none")],
)
def test_answers_keep_to_the_grammar_in_any_order_of_messages(
    strategy: str, drafter: str, seed: int, alone: list[list[int]]
) -> None:
    """Drafts that know of no grammar are often illegal; cells are short, so that requests begin again in the middle."""
    texts = [[*PROMPT, *answer] for answer in alone]
    found, num_preemptions = written(strategy, drafter, seed, texts)
    assert found == alone
    assert num_preemptions > 0
