"""Strategies compared on a cluster that exists only as numbers: the real cores, in virtual time, with scripted text."""

from __future__ import annotations

import gc
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from mpispec.compute import llama_traits
from mpispec.core.config import HeadConfig, queue_limit
from mpispec.core.draft import DraftCore
from mpispec.core.events import Submitted
from mpispec.core.head import HeadCore
from mpispec.core.ids import HEAD, Actor, Plane, RequestId, Token
from mpispec.core.messages import Sampling
from mpispec.core.stage import StageCore
from mpispec.core.strategy import Strategy
from mpispec.sim import cascade
from mpispec.sim.cascade import CascadeModel
from mpispec.sim.cluster import Answer, DraftModel, Level, VirtualCluster
from mpispec.sim.costs import Costs, Modelled
from mpispec.sim.giving_way import Apart
from mpispec.sim.script import VOCABULARY, Acceptance, Script, ScriptedPredictor, ScriptedTarget
from mpispec.strategies import PRESETS

BASELINE = "plain"
"""What speed-ups are relative to."""
PROMPT_TOKENS = 8
_BASELINE_TOKENS = 32
"""Plain decoding repeats itself exactly, so that a few tokens measure it."""
_LONGEST_CHAIN = 64
_SEQUENCES = 256
"""Sequence ids of llama.cpp's cache: its LLAMA_MAX_SEQ."""
_SHORTEST_LEAD = 8
_CHAINS = 32
"""The least lead of a strategy that may fill a pipeline with runs of several layers each."""
_FARTHEST = 0.005
"""A lead beyond `_SHORTEST_LEAD` ends where the path probability falls below this; the rest of a long pipeline stays
empty, which costs about this share of the speed and saves most of a study's time."""
MOST_STEPS = 200_000_000
"""Of a cluster; a study that takes more has stalled."""


@dataclass(frozen=True)
class Study:
    """The cluster, the draft and the work. Times in seconds."""

    num_stages: int = 4
    stage_s: float = 0.010
    """A run of one row on a stage."""
    draft_s: float = 0.001
    """A step of the draft for one row."""
    link_s: float = 0.0
    link_bytes_per_s: float = math.inf
    row_bytes: int = 16384
    """Activations of one row between stages."""
    rows_factor: tuple[float, ...] = (1.0,)
    """See `Modelled.rows_factor`; holds for stages and draft."""
    acceptance: Acceptance = field(default_factory=Acceptance)
    width: int = 4
    """Most draft tokens for one position, where a strategy grows a tree."""
    lead: int | None = None
    """How many positions the draft may run ahead; None for as many as can matter."""
    chain: int | None = None
    """Length of the chains of a strategy that waits for the verification of each; None for the best."""
    num_tokens: int = 400
    """Length of each answer."""
    num_requests: int = 1
    """Requests at once."""
    seed: int = 0
    cores: tuple[int, ...] = ()
    """See `Modelled.cores`."""
    is_exact: bool = False
    """Whether requests have cells of their own and their prompts a way of their own (ADR 0036, 0048)."""
    looks: int = 16
    """How often the run of a prompt looks whether others wait: at half and end of each of eight layers of a stage."""
    cascade: tuple[CascadeModel, ...] = ()
    """Models below the target, the lowest first; where there are any they draft instead of the draft."""

    @property
    def costs(self) -> Modelled:
        """The cost of everything."""
        stages_s = (self.stage_s,) * self.num_stages
        modelled = stages_s, self.draft_s, self.link_s, self.link_bytes_per_s, self.rows_factor, self.cores
        return Modelled(*modelled) if self.readers is None else Apart(*modelled, readers=self.readers, looks=self.looks)

    @property
    def rows_cost(self) -> tuple[float, ...]:
        """What the head knows of the cost of rows: up to a tile where requests share runs (runtime/row_costs.py)."""
        if self.num_requests == 1 or self.is_exact:
            return self.rows_factor
        return tuple(self.costs.factor(rows) for rows in range(1, llama_traits.TILE + 1))

    @property
    def readers(self) -> Actor | None:
        """See `HeadConfig.readers`; where there is no draft."""
        return Actor(self.num_stages) if self.is_exact else None

    @property
    def crowd(self) -> float:
        """Stages that the busiest core computes."""
        stages = self.cores[: self.num_stages]
        return float(max(map(stages.count, stages), default=1))

    @property
    def draft_toll_s(self) -> float:
        """What a step of the draft takes from the stages on its core."""
        return self.draft_s if self.cores and self.cores[-1] in self.cores[: self.num_stages] else 0.0

    @property
    def pass_s(self) -> float:
        """From the dispatch of one row to its verification in an empty pipeline."""
        costs = self.costs
        back = costs.link(Actor(self.num_stages), HEAD, Plane.DATA, 0)
        between = (self.num_stages - 1) * costs.link(Actor(1), Actor(2), Plane.DATA, self.row_bytes)
        return self.num_stages * costs.compute(Actor(1), 1) + between + back

    @property
    def farthest(self) -> int:
        """The lead of the draft: what fills the pipeline, but not what is almost never reached."""
        if self.lead is not None:
            return self.lead
        filling = math.ceil(self.pass_s / self.stage_s) + 4
        acceptance = self.acceptance.mean
        reached = math.ceil(math.log(_FARTHEST) / math.log(acceptance)) if 0.0 < acceptance < 1.0 else filling
        return min(filling, max(_SHORTEST_LEAD, reached))

    def best_length(self, width: int = 1) -> int:
        """Return the length of chains, or the depth of trees, that is best where each waits for its verification.

        Rows are paid for and draft tokens waited for (Leviathan et al., arXiv 2211.17192, 3.3).
        """
        costs, acceptance = self.costs, sum(self.acceptance.probs(0, width))

        def seconds_a_token(length: int) -> float:
            tokens = sum(acceptance**accepted for accepted in range(length + 1))
            passing = self.pass_s - self.num_stages * self.stage_s
            computing = self.num_stages * costs.compute(Actor(1), width * length + 1)
            return (computing + passing + length * costs.draft(width)) / tokens

        return min(range(1, _LONGEST_CHAIN // width + 1), key=seconds_a_token)

    def law_speedup(self, acceptance_rate: float) -> float:
        """Return the bound of a filled pipeline over a plain one, with links and several requests.

        A token takes one stage time after an acceptance and a whole pass after a rejection. Several requests share the
        stages, which give one token for each stage time at most. With free links and one request:
        D / (1 + (1 - h)(D - 1)).
        """
        token_s = self.stage_s + (1.0 - acceptance_rate) * (self.pass_s - self.stage_s)
        return self._shared(token_s) / self._shared(self.pass_s)

    def _shared(self, token_s: float) -> float:
        return min(self.num_requests / token_s, 1.0 / self.stage_s)


@dataclass(frozen=True)
class Outcome:
    """How one strategy did."""

    strategy: str
    tokens_per_s: float
    speedup_over_plain: float
    acceptance_rate: float
    """Decisions whose token was among the dispatched children of the root, of all but the last of each answer."""
    law_speedup: float
    """The bound at this acceptance rate."""
    achieved_over_law: float
    wasted_rows: int
    """Draft tokens dispatched that were not accepted."""
    runs: int
    cancelled: int
    """Runs given up on the way."""


def compare(names: Sequence[str], study: Study) -> list[Outcome]:
    """Measure strategies, each over the plain pipeline."""
    return [measure(name, study) for name in names]


def measure(name: str, study: Study) -> Outcome:
    """Measure one strategy over the plain pipeline.

    The prompt is not timed: the clock runs from each answer's first token to its last.
    """
    base = _Trial(BASELINE, replace(study, num_tokens=min(study.num_tokens, _BASELINE_TOKENS))).tokens_per_s
    trial = _Trial(name, study)
    speedup = trial.tokens_per_s / base
    law = study.law_speedup(trial.acceptance_rate)
    return Outcome(
        strategy=name,
        tokens_per_s=trial.tokens_per_s,
        speedup_over_plain=speedup,
        acceptance_rate=trial.acceptance_rate,
        law_speedup=law,
        achieved_over_law=speedup / law,
        wasted_rows=sum(counts.drafted - counts.accepted for counts in trial.counts),
        runs=sum(counts.runs for counts in trial.counts),
        cancelled=sum(counts.cancelled_runs for counts in trial.counts),
    )


def sized(name: str, study: Study) -> Strategy:
    """Make a strategy with what the study says of width, depth and lead, where it has such tunables."""
    factory = PRESETS[name]
    known = inspect.signature(factory).parameters
    lead, chain = study.farthest, study.chain or study.best_length()
    sizes = {"width": study.width, "depth": lead, "lead": lead, "gamma": chain, "most_rows": _LONGEST_CHAIN + 1}
    if name == "auto":
        sizes["lead"] = study.lead or max(lead, chain, _CHAINS)
    if name == "synctree":
        sizes["gamma"] = study.chain or study.best_length(study.width)
    if study.lead is not None:
        sizes["lookahead"] = study.lead
    return factory(**{tunable: size for tunable, size in sizes.items() if tunable in known})


def answers_of(name: str, study: Study, watch: Callable[[VirtualCluster], None] | None = None) -> list[Answer]:
    """Let one strategy answer all requests of a study, which come at once; return what came out for each.

    `watch` gets the cluster before anything happens. Raises AssertionError where an answer is not the script's.
    """
    script = Script.drawn(study.num_requests, PROMPT_TOKENS + study.num_tokens + 1, study.seed)
    cluster = cluster_of(name, study, script)
    if watch is not None:
        watch(cluster)
    for request, text in script.texts.items():
        cluster.at(0.0, submission(name, request, text[:PROMPT_TOKENS], study.num_tokens))
    with uncollected():
        cluster.run(MOST_STEPS)
    cluster.check_drained()
    for request, text in script.texts.items():
        expected = list(text[PROMPT_TOKENS : PROMPT_TOKENS + study.num_tokens])
        assert cluster.answers[request].tokens == expected, f"{name} changed the text of request {request}"
    return [cluster.answers[request] for request in script.texts]


class _Trial:
    """One strategy's run from the first token to the last."""

    def __init__(self, name: str, study: Study) -> None:
        self.counts = []
        begins, ends = [], []
        for answer in answers_of(name, study):
            assert answer.statistics is not None
            self.counts.append(answer.statistics)
            begins.append(answer.times[0])
            ends.append(answer.times[-1])
        timed = study.num_requests * (study.num_tokens - 1)
        self.tokens_per_s = timed / (max(ends) - min(begins))
        self.acceptance_rate = sum(counts.accepted for counts in self.counts) / timed


def cluster_of(name: str, study: Study, script: Script) -> VirtualCluster:
    """Return the cluster of a study with nothing to do yet.

    A request may have `PROMPT_TOKENS` + `study.num_tokens` tokens, prompt and answer together.
    """
    stages = study.num_stages
    strategy = sized(name, study)
    is_drafted = strategy.lead > 0
    config = HeadConfig(
        stages,
        Actor(stages + 1) if is_drafted else None,
        context=PROMPT_TOKENS + study.num_tokens,
        sequences=_SEQUENCES,
        rows_cost=study.rows_cost,
        link_delay=study.link_s / study.stage_s,
        draft_step=study.draft_s / study.stage_s,
        draft_pair=study.costs.draft(2) / study.costs.draft(1) if study.draft_s else 1.0,
        crowd=study.crowd,
        draft_toll=study.draft_toll_s / study.stage_s,
        link_row=study.row_bytes / study.link_bytes_per_s / study.stage_s,
        max_active=study.num_requests,
        traits=replace(
            llama_traits.traits(study.is_exact or study.num_requests == 1), has_own_cells=study.readers is not None
        ),
        readers=study.readers,
    )
    limit = queue_limit(stages, study.num_requests)
    levels, draft, costs = _below(config, study, script) if is_drafted else ([], None, study.costs)
    return VirtualCluster(
        HeadCore(config, {name: lambda: sized(name, study)}, {}),
        [StageCore(stage, stages, limit) for stage in config.stages[:stages]],
        draft,
        costs,
        ScriptedTarget(script, stages, study.row_bytes),
        check=False,
        levels=levels,
        readers=[StageCore(stage, stages, limit, readers=study.readers) for stage in config.stages[stages:]],
    )


def submission(name: str, request: RequestId, prompt: Sequence[Token], num_tokens: int) -> Submitted:
    """Return the event that submits a request to a cluster of this strategy."""
    drafter = "draft" if PRESETS[name]().lead > 0 else "none"
    return Submitted(request, tuple(prompt), num_tokens, frozenset(), Sampling(), name, drafter)


def _below(config: HeadConfig, study: Study, script: Script) -> tuple[list[Level], tuple[DraftCore, DraftModel], Costs]:
    """Return the levels under the target, the draft under them, and what all of it costs."""
    if not study.cascade:
        predictor = ScriptedPredictor(script, study.acceptance, PROMPT_TOKENS, study.seed)
        return [], (DraftCore(config.chunk, study.num_requests, _SEQUENCES), predictor), study.costs
    models = cascade.models(study.cascade, script.texts.values(), VOCABULARY, study.seed)
    below = cascade.build(study.cascade, models, config, study.costs, study.lead)
    return below.levels, below.draft, below.costs


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep Python from searching for cycles: millions of short-lived events have none, and the search is slow."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
