"""One generation, measured: what `generate --json` says, how busy each rank was and how near the law it came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from mpispec.bench import baseline, quick
from mpispec.bench.facts import facts_of_hosts
from mpispec.bench.law import Lap, Span, beside_the_law, busy_share, decoding, laps, step_s
from mpispec.bench.printing import json_flag, show
from mpispec.commands.flags import job_flags, job_options, prompt_flags, read_sampling, sampling_flags
from mpispec.commands.prompt import read_prompt, stops_of, tokenised
from mpispec.commands.tables import table
from mpispec.runtime.balance import balanced
from mpispec.runtime.engine import Engine, Generation
from mpispec.runtime.group import Group, JobError, agree
from mpispec.runtime.job import JobOptions, Outcome, Setup, prepare, run
from mpispec.runtime.process import complain, joined
from mpispec.serve.completion import written
from mpispec.serve.generate import Answer
from mpispec.serve.service import Vocabulary

_WARM_UP_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Job:
    """What is run."""

    options: JobOptions
    setup: Setup
    vocabulary: Any
    """None but on rank 0."""
    generation: Generation
    """Without a prompt but on rank 0."""


def _silent(_: str) -> None:
    """Nobody is told what is being loaded."""


def measured(engine: Engine, vocabulary: Vocabulary, generation: Generation) -> Answer:
    """Generate after a warm-up that leaves nothing of the prompt in the caches, so that prefill is measured whole.

    For the oracle a plain run comes before all that.
    """
    is_synthetic = generation.proposer == "oracle"
    warming = generation
    if is_synthetic:
        warming = replace(generation, strategy="plain", proposer="none")
        engine.recorded = (*generation.prompt, *written(engine, vocabulary, warming).tokens)
    other = (generation.prompt[0] + 1) % vocabulary.size
    written(engine, vocabulary, replace(warming, prompt=(other,), max_tokens=_WARM_UP_TOKENS))
    return Answer(written(engine, vocabulary, generation), False, is_synthetic, engine.promise)


def figures(outcome: Outcome[Answer], setup: Setup) -> dict[str, Any]:
    """Return generate's object with the figures that only a timed run has."""
    report = outcome.value.completed.report
    found = outcome.value.to_json(outcome.ranks)
    during = decoding(outcome.ranks[0])
    computed = [laps(rank) for rank in outcome.ranks]
    for each, mine in zip(found["ranks"], computed, strict=True):
        busy = busy_share(mine, during)
        each["decode_busy"] = None if busy is None else round(busy, 4)
        each["bubble"] = None if busy is None else round(1.0 - busy, 4)
    prefill_s = report["timing"]["prefill_s"]
    found["timing"]["prefill_tokens_per_s"] = round(report["prompt_tokens"] / prefill_s, 3) if prefill_s else None
    draft_s = _draft_s(setup, computed, during)
    found["draft_ms"] = None if draft_s is None else round(draft_s * 1000, 4)
    found["model"] = setup.model.path.name
    return found | beside_the_law(report, _stage_s(setup, computed, during), draft_s)


def _stage_s(setup: Setup, computed: Sequence[Sequence[Lap]], during: Span) -> list[float | None]:
    """Return what a one-row run takes on each stage of the target."""
    plan = setup.plan
    target = plan.pipelines[0]
    names = [plan.role_of(target.actor_of(index)) for index in range(plan.num_stages)]
    return [step_s(computed[stage.rank], name, during) for name, stage in zip(names, plan.stages, strict=True)]


def _draft_s(setup: Setup, computed: Sequence[Sequence[Lap]], during: Span) -> float | None:
    rank = setup.plan.draft_rank
    return step_s(computed[rank], "draft", during) if rank is not None else None


def lines(found: dict[str, Any], answer: Answer) -> list[str]:
    """Return the figures for people."""
    rows = answer.summary()
    prefill = found["timing"]["prefill_tokens_per_s"]
    rows.append(("prefill", f"{prefill:.1f} tokens/s" if prefill else "-"))
    if found["tau_ms"] is not None:
        stages = ", ".join(f"{ms:.2f}" for ms in found["stage_ms"])
        rows.append(("tau", f"{found['tau_ms']:.2f} ms a one-row run on the slowest stage, of {stages}"))
    if found["draft_ms"] is not None:
        rows.append(("draft", f"{found['draft_ms']:.2f} ms a step"))
    if found["law_tokens_per_s"] is not None:
        rate = f"{found['law_tokens_per_s']:.1f} tokens/s at {found['hit_rate_of_all']:.0%} of all tokens guessed"
        rows.append(("the law", f"{rate}, {found['law_speedup']:.2f}x plain"))
    if found["achieved_over_law"] is not None:
        of_pace = f", {found['achieved_over_paced']:.0%} of it at the draft's pace" if found["draft_ms"] else ""
        rows.append(("achieved", f"{found['achieved_over_law']:.0%} of the law{of_pace}"))
    ranks = [("rank", "host", "roles", "busy", "bubble")]
    for each in found["ranks"]:
        shares = [_percent(each["decode_busy"]), _percent(each["bubble"])]
        ranks.append((str(each["rank"]), each["host"], "+".join(each["roles"]), *shares))
    return [*table(rows), "", *table(ranks)]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _measure(group: Group, job: Job, is_json: bool) -> None:
    """Run and print one measured generation. Collective."""

    def application(engine: Engine) -> Answer:
        return measured(engine, job.vocabulary, job.generation)

    hosts = facts_of_hosts(group)
    options = replace(job.options, is_timed=True)
    outcome = run(options, group, job.setup, stops_of(job.vocabulary), application, _silent)
    if outcome is not None:
        found = figures(outcome, job.setup) | {"hosts": hosts}
        show(found, lines(found, outcome.value), is_json)


def _guard(group: Group, job: Job, old: Path, new: Path | None, is_json: bool) -> None:
    """Run and print a quick comparison; warn where it is worse than the baseline. Collective."""
    entries = agree(group, lambda: baseline.read(old) if group.rank == 0 else [])
    kept = agree(group, lambda: baseline.read(new) if group.rank == 0 and new is not None else [])

    def application(engine: Engine) -> quick.Timings:
        return quick.in_turns(engine, job.vocabulary, job.generation)

    hosts = facts_of_hosts(group)
    around = partial(quick.skippable, setup=job.setup)
    outcome = run(job.options, group, job.setup, stops_of(job.vocabulary), application, _silent, around)
    if outcome is None:
        return
    setting = quick.setting(job.setup, job.options, job.generation, hosts)
    found = quick.figures(setting, outcome.value, hosts)
    show(found, quick.lines(found), is_json)
    if new is not None:
        baseline.write(new, kept, found)
        return
    for sentence in baseline.complaints(found, entries):
        complain(sentence)


def _prepared(group: Group, is_quick: bool, flags: dict[str, Any]) -> Job:
    """Read the options and the prompt. Collective; raises JobError."""
    options = agree(group, lambda: job_options(flags))
    prompt = flags["prompt"]
    if is_quick:
        options = quick.quick_options(options, flags["strategy"])
        prompt = quick.PROMPT if prompt is None and flags["file"] is None else prompt
    setup = prepare(options, group)
    text = agree(group, lambda: read_prompt(prompt, flags["file"]) if group.rank == 0 else "")
    vocabulary, tokens = agree(group, lambda: tokenised(group, setup, text, flags["chat"]))
    setup = balanced(options, group, setup, _silent)
    generation = Generation(tokens, flags["max_tokens"], read_sampling(flags), options.strategy, options.proposer)
    return Job(options, setup, vocabulary, quick.shortened(generation) if is_quick else generation)


@click.command()
@prompt_flags
@job_flags
@sampling_flags
@click.option("--quick", "is_quick", is_flag=True, help="Plain, speculating and null requests in turns, as ratios.")
@click.option(
    "--baseline",
    "old",
    type=click.Path(path_type=Path, dir_okay=False),
    default=baseline.OWN,
    help="With --quick: hold the ratios against this file; default: the program's own.",
)
@click.option(
    "--write-baseline",
    "new",
    type=click.Path(path_type=Path, dir_okay=False),
    help="With --quick: keep the ratios in this file instead.",
)
@json_flag
def generate(is_quick: bool, old: Path, new: Path | None, is_json: bool, **flags: Any) -> None:
    """One generation beside the law of speed-up.

    Takes the options of `mpispec generate` and prints its figures, how busy each rank was while decoding, and how near
    the law for its hit rate and the slowest stage's pace it came.

    --quick instead compares three kinds of
    request in turns, among them one without arithmetic, with a baseline, and warns if a ratio has become worse; it
    never fails for that.
    """
    with joined() as group:
        if new is not None and not is_quick:
            raise JobError("--write-baseline keeps the ratios of --quick; give both.")
        job = _prepared(group, is_quick, flags)
        if is_quick:
            _guard(group, job, old, new, is_json)
        else:
            _measure(group, job, is_json)
