"""Plain, speculation and no arithmetic at all in turns inside one job: ratios that a busy machine blurs least."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from mpispec.bench.baseline import OVERHEAD, SPEED, ratios
from mpispec.bench.skippable import Skippable, skipping
from mpispec.commands.tables import table
from mpispec.core.ids import RequestId
from mpispec.runtime.engine import Engine, Generation
from mpispec.runtime.group import JobError
from mpispec.runtime.loading import Models
from mpispec.runtime.setup import JobOptions, Setup
from mpispec.serve.text.completion import written
from mpispec.serve.text.vocabulary import Vocabulary

PROMPT = "The capital of France is"
"""Continued where the command line names no prompt."""
MOST_TOKENS = 48
"""Tokens of a turn's answer."""
TURNS = 6
"""The first of them is a warm-up and, for the oracle, the recording."""
BUDGET_S = 60.0
"""No turn begins after that but the warm-up and one that counts. Where others use the cores as well, several threads a
compute spin on each other: with two on two such cores a run was not over after 70 s that took 14 s with one."""
ACCEPTANCE_RATE = 0.8
"""Of the oracle, which drafts where the command line names no drafter: the same on every machine."""
NULL, PLAIN, FAST = "null", "plain", "speculation"
_ORDER = (PLAIN, NULL, FAST)
"""Plain first: the rows that measure what runs cost, before the first request, bear its number and are computed too."""
Timings = dict[str, list[dict[str, Any]]]
"""By kind of request `timing` of its report, turn by turn."""


def is_null(request: RequestId) -> bool:
    """Return whether a request goes without arithmetic; every rank knows it from the order of the requests."""
    return _ORDER[request % len(_ORDER)] == NULL


def begins(turn: int, elapsed_s: float) -> bool:
    """Return whether a turn, counted from 0, begins `elapsed_s` after the first one began."""
    return turn < 2 or (turn < TURNS and elapsed_s < BUDGET_S)


def quick_options(options: JobOptions, strategy: str | None) -> JobOptions:
    """Return the options with a quick run's defaults: `auto`, one thread, the oracle if there is no other drafter.

    With more threads those of ggml spin on each other wherever a core is shared, and nothing repeats. N-grams draft
    from an answer's own text alone, since every turn asks for it again.
    """
    strategy = strategy or ("pipespec" if options.cascade else "auto")
    chosen = replace(options, strategy=strategy, threads=options.threads or 1, ngram_tokens=0, ngram_file=None)
    if options.drafter is None and options.draft is None and not options.exits:
        return replace(chosen, drafter="oracle", oracle_acceptance_rate=ACCEPTANCE_RATE)
    return chosen


def skippable(models: Models, setup: Setup) -> Models:
    """Return the models with the target's stages made to skip null requests."""
    target = setup.plan.pipelines[0]
    last = target.actor_of(len(target.stages) - 1)
    own = {target.actor_of(index) for index in range(len(target.stages))}
    stages = {
        actor: Skippable(stage, setup.model, actor == last, is_null) if actor in own else stage
        for actor, stage in models.stages.items()
    }
    together = skipping(models.together) if models.together is not None else None
    return replace(models, stages=dict(stages), together=together)


def shortened(generation: Generation) -> Generation:
    """Return what the speculating requests of a quick run generate."""
    return replace(generation, max_tokens=min(MOST_TOKENS, generation.max_tokens))


def in_turns(engine: Engine, vocabulary: Vocabulary, generation: Generation) -> Timings:
    """Run every kind of request in each turn; `generation` says how the speculating ones draft."""
    plain = replace(generation, strategy="plain", drafter="none")
    other = next(token for token in range(vocabulary.size) if token not in {*vocabulary.eog, generation.prompt[0]})
    wanted = {NULL: replace(plain, prompt=(other,)), PLAIN: plain, FAST: generation}
    found: Timings = {kind: [] for kind in _ORDER}
    turn, start = 0, time.monotonic()
    while begins(turn, time.monotonic() - start):
        for kind in _ORDER:
            completed = written(engine, vocabulary, wanted[kind])
            if kind == PLAIN:
                engine.recorded = (*generation.prompt, *completed.tokens)
            if turn:
                found[kind].append(completed.report["timing"])
        turn += 1
    return found


def figures(setting: dict[str, Any], timings: Timings, hosts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what is printed, and kept as a baseline. Raises JobError where an answer was too short to have a speed."""
    speeds = {kind: [timing["tokens_per_s"] for timing in each] for kind, each in timings.items()}
    gaps = {kind: [timing["itl_ms"]["p50"] for timing in timings[kind]] for kind in (NULL, PLAIN)}
    if not all(all(each) for each in (*speeds.values(), *gaps.values())):
        raise JobError("An answer had one token and so no speed; give another --prompt, or a larger -n.")
    found = {SPEED: ratios(speeds[FAST], speeds[PLAIN]), OVERHEAD: ratios(gaps[NULL], gaps[PLAIN])}
    return {"setting": setting, "ratios": found, "tokens_per_s": speeds, "itl_ms_p50": gaps, "hosts": hosts}


def setting(setup: Setup, options: JobOptions, generation: Generation, hosts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what two runs must have in common for their ratios to be compared."""
    return {
        "ranks": setup.plan.num_ranks,
        "hosts": len(hosts),
        "cores": sum(facts["usable_cores"] for facts in hosts),
        "threads": list(setup.threads),
        "model": setup.model.path.name,
        "draft": setup.draft.path.name if setup.draft is not None else None,
        "layers": [[stage.rank, stage.first, stage.last] for stage in setup.plan.stages],
        "wire": options.wire,
        "strategy": options.strategy,
        "drafter": options.drafter,
        "oracle_acceptance_rate": options.oracle_acceptance_rate,
        "prompt_tokens": len(generation.prompt),
        "tokens": generation.max_tokens,
    }


def lines(found: dict[str, Any]) -> list[str]:
    """Return the figures for people."""
    rows = [("ratio", "median", "spread")]
    for name, ratio in found["ratios"].items():
        rows.append((name.replace("_", " "), f"{ratio['p50']:.3f}", f"{ratio['least']:.3f} to {ratio['most']:.3f}"))
    return table(rows)
