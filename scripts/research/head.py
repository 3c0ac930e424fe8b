"""The head's own work for each token, on a virtual pipeline of any length; target: 200 us whatever the context.

python scripts/research head --stages 200 --context 1000 --context 32000
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from dataclasses import dataclass
from functools import partial

import click

from mpispec.compute.llama_traits import MOST_CELLS, DeferredFree
from mpispec.core.config import HeadConfig
from mpispec.core.draft import DraftCore
from mpispec.core.effects import Effect
from mpispec.core.events import Event, Received, Submitted
from mpispec.core.head import HeadCore
from mpispec.core.ids import Actor, RequestId
from mpispec.core.messages import Sampling
from mpispec.core.stage import StageCore
from mpispec.core.traits import BackendTraits
from mpispec.drafters import in_head
from mpispec.drafters.suffix_store import SuffixStore
from mpispec.sim.cluster import VirtualCluster
from mpispec.sim.costs import Modelled
from mpispec.sim.script import Acceptance, Script, ScriptedPredictor, ScriptedTarget
from mpispec.sim.study import Study, sized

_SEQUENCES = 256
_STAGE_S = 0.010


class _TimedHead(HeadCore):
    """Adds up what each kind of event costs, from the first token of the answer on."""

    def __init__(self, config: HeadConfig, strategy: str, study: Study) -> None:
        super().__init__(config, {strategy: lambda: sized(strategy, study)}, in_head(SuffixStore()))
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.events: defaultdict[str, int] = defaultdict(int)
        self.tree_nodes = 0
        self._is_answering = False

    def handle(self, event: Event, now: float) -> list[Effect]:
        """See `HeadCore.handle`."""
        began = time.thread_time()
        effects = super().handle(event, now)
        spent = time.thread_time() - began
        for request in self._active.values():
            self._is_answering |= len(request.tokens) > len(request.prompt)
            self.tree_nodes = max(self.tree_nodes, sum(1 for _ in request.tree.root.subtree()))
        if self._is_answering:
            kind = type(event.message).__name__ if isinstance(event, Received) else type(event).__name__
            self.seconds[kind] += spent
            self.events[kind] += 1
        return effects


@dataclass(frozen=True)
class Load:
    """What the head has to do."""

    stages: int
    context: int
    strategy: str
    width: int
    lead: int
    acceptance_rate: float
    tokens: int
    drafter: str = "draft"


def measure(load: Load) -> dict[str, object]:
    """Return what a token costs the head, by kind of event."""
    prompt_tokens = load.context - load.tokens
    script = Script.drawn(1, load.context + 1, seed=0)
    study = Study(load.stages, width=load.width, lead=load.lead)
    config = HeadConfig(
        load.stages,
        Actor(load.stages + 1),
        load.context,
        _SEQUENCES,
        chunk=prompt_tokens,
        traits=BackendTraits(freeing=partial(DeferredFree, most_cells=MOST_CELLS), shares_cells=False),
    )
    head = _TimedHead(config, load.strategy, study)
    predictor = ScriptedPredictor(script, Acceptance((load.acceptance_rate,)), prompt_tokens)
    cluster = VirtualCluster(
        head,
        [StageCore(stage, load.stages, 8 * config.most_in_flight) for stage in config.stages],
        (DraftCore(prompt_tokens, sequences=_SEQUENCES), predictor),
        Modelled((_STAGE_S,) * load.stages, draft_s=_STAGE_S / 10),
        check=False,
        target=ScriptedTarget(script, load.stages),
    )
    prompt = tuple(script.texts[RequestId(0)][:prompt_tokens])
    submitted = Submitted(RequestId(0), prompt, load.tokens, frozenset(), Sampling(), load.strategy, load.drafter)
    cluster.at(0.0, submitted)
    cluster.run(100_000_000)
    return {
        "strategy": load.strategy,
        "drafter": load.drafter,
        "stages": load.stages,
        "context": load.context,
        "tree_nodes": head.tree_nodes,
        "us_per_token": round(sum(head.seconds.values()) / load.tokens * 1e6, 1),
        "by_event": {
            kind: {
                "us_each": round(head.seconds[kind] / head.events[kind] * 1e6, 1),
                "per_token": round(head.events[kind] / load.tokens, 2),
            }
            for kind in head.seconds
        },
    }


@click.command()
@click.option("--stages", type=click.IntRange(min=1), default=200, show_default=True)
@click.option("--context", "contexts", type=click.IntRange(min=1000), multiple=True, default=(1000, 32000))
@click.option("--strategy", "strategies", multiple=True, default=("pipeinfer", "specpipe", "auto"))
@click.option("--width", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--lead", type=click.IntRange(min=1), default=16, show_default=True, help="Layers of the tree.")
@click.option("--acceptance", "acceptance_rate", type=click.FloatRange(0.0, 1.0), default=0.94, show_default=True)
@click.option("--tokens", type=click.IntRange(2, 900), default=200, show_default=True)
@click.option("--drafter", type=click.Choice(["draft", "draft+ngram"]), default="draft", show_default=True)
def main(
    stages: int,
    contexts: tuple[int, ...],
    strategies: tuple[str, ...],
    width: int,
    lead: int,
    acceptance_rate: float,
    tokens: int,
    drafter: str,
) -> None:
    """Print the head's work for each token as JSON, a line for each strategy and context."""
    for strategy in strategies:
        for context in contexts:
            found = measure(Load(stages, context, strategy, width, lead, acceptance_rate, tokens, drafter))
            click.echo(json.dumps(found))
