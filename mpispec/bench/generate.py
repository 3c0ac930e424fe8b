"""One generation, measured: what `generate --json` says, how busy each rank was and how near the law it came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from mpispec.bench import baseline, quick
from mpispec.bench.facts import facts_of_hosts
from mpispec.bench.law import Lap, Span, busy_share, bytes_per_token, compared_with_law, decoding, laps, step_s
from mpispec.bench.printing import json_flag, show
from mpispec.commands.flags import job_flags, job_options, prompt_flags, read_sampling, sampling_flags
from mpispec.commands.generate import Answer
from mpispec.commands.prompt import NOTHING, read_prompt, stops_of, tokenised
from mpispec.commands.tables import table
from mpispec.core.request import EXIT
from mpispec.runtime.engine import Engine, Generation
from mpispec.runtime.group import Group, JobError, on_rank_0
from mpispec.runtime.job import FrontEnd, Outcome, run_job
from mpispec.runtime.loading import Models
from mpispec.runtime.process import complain
from mpispec.runtime.setup import JobOptions, Setup
from mpispec.serve.text.completion import written
from mpispec.serve.text.vocabulary import Vocabulary

T = TypeVar("T")

_WARM_UP_TOKENS = 8


def measured(engine: Engine, vocabulary: Vocabulary, generation: Generation) -> Answer:
    """Generate after a warm-up that leaves nothing of the prompt in the caches, so that prefill is measured whole.

    For the oracle a plain run comes before all that.
    """
    is_synthetic = generation.drafter == "oracle"
    warming = generation
    if is_synthetic:
        warming = replace(generation, strategy="plain", drafter="none")
        engine.recorded = (*generation.prompt, *written(engine, vocabulary, warming).tokens)
    other = (generation.prompt[0] + 1) % vocabulary.size
    written(engine, vocabulary, replace(warming, prompt=(other,), max_tokens=_WARM_UP_TOKENS))
    return Answer(written(engine, vocabulary, generation), False, is_synthetic, engine.facts.promise)


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
    found["layer_bytes_per_token"] = bytes_per_token(_layer_bytes(setup), computed, during, report["tokens"])
    exits = [number for number, stage in enumerate(setup.plan.stages, 1) if stage.has_exit]
    exit_stage = exits[0] if exits and EXIT in found["drafter"].split("+") else 1
    return found | compared_with_law(report, _stage_s(setup, computed, during), draft_s, exit_stage)


def _stage_s(setup: Setup, computed: Sequence[Sequence[Lap]], during: Span) -> list[float | None]:
    """Return what a one-row run takes on each stage of the target."""
    role_of = setup.plan.role_of
    return [step_s(computed[place.stage.rank], role_of(place.actor), during) for place in setup.targets]


def _layer_bytes(setup: Setup) -> dict[str, int]:
    """Return the bytes of the layers of each stage of the target, by its name in traces."""
    return {
        setup.plan.role_of(place.actor): sum(place.model.layer_bytes[layer] for layer in place.stage.layers)
        for place in setup.targets
    }


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
    if found["layer_bytes_per_token"] is not None:
        rows.append(("layers read", f"{found['layer_bytes_per_token'] / 1e6:.1f} MB a token"))
    if found["draft_ms"] is not None:
        rows.append(("draft", f"{found['draft_ms']:.2f} ms a step"))
    if found["law_tokens_per_s"] is not None:
        drafted = f"with {found['acceptance_rate_of_all']:.0%} of all tokens drafted"
        rate = f"{found['law_tokens_per_s']:.1f} tokens/s {drafted}"
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


class _Benchmark(FrontEnd[T]):
    """Reads the options and the prompt as `mpispec generate` does; silent while it loads."""

    def __init__(self, flags: dict[str, Any]) -> None:
        self._flags = flags
        self._options = JobOptions()
        self._vocabulary: Any = None
        """None but on rank 0."""
        self._generation = Generation((), 1)
        """Without a prompt but on rank 0."""
        self._hosts: list[dict[str, Any]] = []
        self._setup: Setup | None = None

    def open(self, group: Group, setup: Setup) -> frozenset[int]:
        """See `FrontEnd`."""
        flags, options = self._flags, self._options
        text = on_rank_0(group, lambda: read_prompt(flags["prompt"], flags["file"]), "")
        self._vocabulary, tokens = on_rank_0(group, lambda: tokenised(setup, text, flags["chat"]), NOTHING)
        sampling = read_sampling(flags)
        self._generation = Generation(tokens, flags["max_tokens"], sampling, options.strategy, options.drafter)
        return stops_of(self._vocabulary)

    def begin(self, group: Group, setup: Setup) -> None:
        """See `FrontEnd`."""
        self._setup = setup
        self._hosts = facts_of_hosts(group)


class _Measure(_Benchmark[Answer]):
    """One measured generation."""

    def options(self) -> JobOptions:
        """See `FrontEnd`."""
        if self._flags["new"] is not None:
            raise JobError("--write-baseline keeps the ratios of --quick; give both.")
        self._options = replace(job_options(self._flags), is_timed=True)
        return self._options

    def serve(self, engine: Engine) -> Answer:
        """See `FrontEnd`."""
        return measured(engine, self._vocabulary, self._generation)

    def end(self, group: Group, outcome: Outcome[Answer] | None) -> None:
        """See `FrontEnd`."""
        if outcome is not None and self._setup is not None:
            found = figures(outcome, self._setup) | {"hosts": self._hosts}
            show(found, lines(found, outcome.value), self._flags["is_json"])


class _Guard(_Benchmark[quick.Timings]):
    """A quick comparison, with a warning where it is worse than the baseline."""

    def __init__(self, flags: dict[str, Any]) -> None:
        super().__init__(flags)
        self._entries: list[dict[str, Any]] = []
        """The baseline's, on rank 0."""
        self._kept: list[dict[str, Any]] = []
        """Those of the baseline that is written, on rank 0."""

    def options(self) -> JobOptions:
        """See `FrontEnd`."""
        self._options = quick.quick_options(job_options(self._flags), self._flags["strategy"])
        if self._flags["prompt"] is None and self._flags["file"] is None:
            self._flags["prompt"] = quick.PROMPT
        return self._options

    def begin(self, group: Group, setup: Setup) -> None:
        """See `FrontEnd`."""
        old, new = self._flags["old"], self._flags["new"]
        self._entries = on_rank_0(group, lambda: baseline.read(old), self._entries)
        self._kept = on_rank_0(group, lambda: baseline.read(new) if new is not None else [], self._kept)
        self._generation = quick.shortened(self._generation)
        super().begin(group, setup)

    def wrap(self, models: Models, setup: Setup) -> Models:
        """See `FrontEnd`."""
        return quick.skippable(models, setup)

    def serve(self, engine: Engine) -> quick.Timings:
        """See `FrontEnd`."""
        return quick.in_turns(engine, self._vocabulary, self._generation)

    def end(self, group: Group, outcome: Outcome[quick.Timings] | None) -> None:
        """See `FrontEnd`."""
        if outcome is None or self._setup is None:
            return
        setting = quick.setting(self._setup, self._options, self._generation, self._hosts)
        found = quick.figures(setting, outcome.value, self._hosts)
        show(found, quick.lines(found), self._flags["is_json"])
        if self._flags["new"] is not None:
            baseline.write(self._flags["new"], self._kept, found)
            return
        for sentence in baseline.complaints(found, self._entries):
            complain(sentence)


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
def generate(is_quick: bool, **flags: Any) -> None:
    """One generation, compared with the law of speed-up.

    Takes the options of `mpispec generate` and prints its figures, how busy each rank was while decoding, and how near
    the law for its acceptance rate and the slowest stage's pace it came.

    --quick instead compares three kinds of request in turns, among them one without arithmetic, with a baseline, and
    warns if a ratio has become worse; it never fails for that.
    """
    if is_quick:
        run_job(_Guard(flags))
    else:
        run_job(_Measure(flags))
