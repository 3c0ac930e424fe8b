"""`mpispec generate`: one prompt, one answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from mpispec.commands.flags import job_flags, job_options, prompt_flags, read_sampling, repeats_flag, sampling_flags
from mpispec.commands.prompt import NOTHING, read_prompt, recommended, stops_of, tokenised
from mpispec.commands.tables import report_lines, show_plan, table
from mpispec.models.recommended import Recommended
from mpispec.runtime.engine import Engine, Generation
from mpispec.runtime.group import Group, JobError, agree, on_rank_0
from mpispec.runtime.job import FrontEnd, Outcome, run_job
from mpispec.runtime.process import INTERRUPTED, Interrupts
from mpispec.runtime.rank import RankReport
from mpispec.runtime.setup import JobOptions, Setup
from mpispec.runtime.text_promise import TextPromise
from mpispec.sampling import describe
from mpispec.serve.terminal.screen import Screen
from mpispec.serve.text.completion import Completed, Completion, written
from mpispec.trace import Event, write


@dataclass(frozen=True, slots=True)
class Answer:
    """What `generate` leaves behind."""

    completed: Completed
    was_interrupted: bool
    is_synthetic: bool
    """Whether the oracle drafted: the speed then says nothing about a real drafter."""
    promise: TextPromise

    def to_json(self, ranks: list[RankReport]) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        report = dict(self.completed.report)
        written = {
            "text": self.completed.text,
            "tokens": list(self.completed.tokens),
            "finish_reason": self.completed.finish_reason,
            "prompt_tokens": self.completed.prompt_tokens,
            "cut": "repeats" if self.completed.is_cut else None,
            "strategy": report["strategy"],
            "drafter": report["drafter"],
            "seed": report["seed"],
            "is_exact": self.promise.is_exact,
            "exactness": str(self.promise),
            "timing": report["timing"],
            "speculation": report["speculation"],
            "ranks": [
                {"rank": r.rank, "host": r.host, "roles": r.roles, "layers": r.layers, "busy": round(r.busy, 4)}
                for r in ranks
            ],
        }
        if self.is_synthetic:
            written["synthetic"] = "the oracle drafter was scripted with this very text"
        return written

    def summary(self) -> list[tuple[str, str]]:
        """Return the figures for people, as name and value."""
        report = self.completed.report
        timing, speculation = report["timing"], report["speculation"]
        rows = [
            ("strategy", f"{report['strategy']}, drafter {report['drafter']}"),
            ("tokens", f"{report['tokens']} after a prompt of {report['prompt_tokens']}"),
            ("speed", _figure(timing["tokens_per_s"], "tokens/s")),
            ("first token", _figure(timing["ttft_s"], "s", 3)),
            ("between tokens", _spread(timing["itl_ms"])),
        ]
        if speculation["acceptance_rate"] is not None:
            rows.append(("acceptance rate", f"{speculation['acceptance_rate']:.0%}"))
            rows.append(("runs", f"{speculation['runs']}, {speculation['cancelled_runs']} cancelled"))
        if self.completed.is_cut:
            rows.append(("cut", "it only repeated itself; with --no-cut-repeats it goes on"))
        if self.is_synthetic:
            rows.append(("note", "synthetic: the oracle drafter was scripted with this very text"))
        return rows


class Generate(FrontEnd[Answer]):
    """Writes the continuation of a prompt to standard output as it is decided, unless that is to hold JSON."""

    def __init__(self, flags: dict[str, Any]) -> None:
        self._flags = flags
        self._is_quiet: bool = flags["is_json"]
        self._options = JobOptions()
        self._vocabulary: Any = None
        """None but on rank 0."""
        self._generation = Generation((), 1)
        """Without a prompt but on rank 0."""
        self._interrupts: Interrupts | None = None

    def options(self) -> JobOptions:
        """See `FrontEnd`."""
        self._options = job_options(self._flags, self._flags["trace"] is not None)
        return self._options

    def open(self, group: Group, setup: Setup) -> frozenset[int]:
        """See `FrontEnd`: read the prompt."""
        flags, is_chat, trace = self._flags, self._flags["chat"], self._flags["trace"]
        text = on_rank_0(group, lambda: read_prompt(flags["prompt"], flags["file"]), "")
        self._vocabulary, tokens = on_rank_0(group, lambda: tokenised(setup, text, is_chat), NOTHING)
        advice = on_rank_0(group, lambda: recommended(setup), Recommended({}, ""))
        if trace is not None:
            on_rank_0(group, lambda: _check_writable(trace), None)
        sampling = read_sampling(flags, advice.values if is_chat else {})
        options = self._options
        self._generation = Generation(tokens, flags["max_tokens"], sampling, options.strategy, options.drafter)
        return stops_of(self._vocabulary)

    def say(self, sentence: str) -> None:
        """See `FrontEnd`."""
        if not self._is_quiet:
            click.echo(sentence, err=True)

    def begin(self, group: Group, setup: Setup) -> None:
        """See `FrontEnd`: show the plan."""
        if group.rank != 0:
            return
        if not self._is_quiet:
            show_plan(setup)
        if self._flags["chat"]:
            self.say(f"the answer is drawn with {describe(self._generation.sampling)}")
        self._interrupts = Interrupts()

    def serve(self, engine: Engine) -> Answer:
        """See `FrontEnd`: generate and write."""
        generation, vocabulary = self._generation, self._vocabulary
        is_synthetic = generation.drafter == "oracle"
        if is_synthetic:
            plain = written(engine, vocabulary, replace(generation, strategy="plain", drafter="none"))
            engine.recorded = (*generation.prompt, *plain.tokens)
        cuts = self._flags["chat"] if self._flags["cut_repeats"] is None else self._flags["cut_repeats"]
        completion = Completion(engine, vocabulary, generation, cuts_repeats=cuts)
        interrupted = False

        def interrupt() -> None:
            nonlocal interrupted
            interrupted = True
            completion.interrupt()

        assert self._interrupts is not None
        self._interrupts.call(interrupt)
        screen = Screen(sys.stdout)
        for text in completion:
            if not self._is_quiet:
                screen.write(text)
        if not self._is_quiet:
            screen.end_line()
        return Answer(completion.result(), interrupted, is_synthetic, engine.facts.promise)

    def end(self, group: Group, outcome: Outcome[Answer] | None) -> None:
        """See `FrontEnd`: sum up, and keep the trace."""
        if outcome is not None and self._is_quiet:
            click.echo(json.dumps(outcome.value.to_json(outcome.ranks)))
        elif outcome is not None:
            lines = [*table(outcome.value.summary()), "", *report_lines(outcome.ranks)]
            click.echo("\n" + "\n".join(lines), err=True)
        if self._flags["trace"] is not None:
            _keep_trace(group, self._flags["trace"], outcome)


@click.command()
@prompt_flags
@job_flags
@sampling_flags
@repeats_flag
@click.option("--trace", type=click.Path(path_type=Path, dir_okay=False), help="Write a timeline for Perfetto.")
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object instead of the text.")
def generate(**flags: Any) -> None:
    """Continue one prompt."""
    outcome = run_job(Generate(flags))
    if outcome is not None and outcome.value.was_interrupted:
        sys.exit(INTERRUPTED)


def _keep_trace(group: Group, path: Path, outcome: Outcome[Any] | None) -> None:
    """Write the timeline on rank 0, the only one with an outcome, while the others wait.

    Collective: who has begun to leave the job gives the others a few seconds, and a long trace takes more.
    """
    ranks = outcome.ranks if outcome is not None else []
    timelines = [(_rank_name(report), report.clock_offset, report.events) for report in ranks]
    agree(group, lambda: _write_trace(path, timelines) if timelines else None)


def _write_trace(path: Path, timelines: Sequence[tuple[str, float, Sequence[Event]]]) -> None:
    try:
        write(path, timelines)
    except OSError as error:
        raise JobError(f"The trace cannot be written to {path} ({error.strerror}); make room there.") from error


def _check_writable(path: Path) -> None:
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        raise JobError(
            f"The trace cannot be written to {path} ({error.strerror}); name a file in a writable folder."
        ) from error


def _rank_name(report: Any) -> str:
    return f"rank {report.rank} ({report.host}): {', '.join(report.roles)}"


def _spread(itl_ms: dict[str, float | None]) -> str:
    if itl_ms["p50"] is None:
        return "-"
    return f"{_figure(itl_ms['p50'], 'ms')} median, {_figure(itl_ms['p95'], 'ms')} p95"


def _figure(value: float | None, unit: str, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f} {unit}"
