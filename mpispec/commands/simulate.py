"""`mpispec simulate`: compare strategies on a cluster that you do not have."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from mpispec.commands.flags import with_flags
from mpispec.commands.load_flags import LengthRange
from mpispec.commands.simulate_load import draw_load, is_load, load_of, load_report, request_flags
from mpispec.core.ids import Actor
from mpispec.load import Load
from mpispec.runtime.process import USAGE, complain
from mpispec.sim.inputs import StudyError, read_acceptance, read_cascade, read_rows
from mpispec.sim.load import LoadOutcome, serve
from mpispec.sim.script import Acceptance
from mpispec.sim.study import BASELINE, Outcome, Study, measure
from mpispec.sim.timeline import record
from mpispec.strategies import PRESETS
from mpispec.trace import write

SYNTHETIC = (
    "Synthetic: text and acceptance are scripted and times are the costs above, in virtual time; "
    "only the scheduling is real."
)
_BEYOND = "Above 100 % of the law: it is for runs of one position, and here a run of many costs little more."
_BELOW = "Below 100 % of the law: it does not count wide runs, a slow draft and draft tokens dispatched late."
_NOTABLE = 0.02
"""Least distance from the law that gets a remark."""
_DEFAULT_STRATEGIES = "plain,sync,pipeinfer,specpipe"
_COUNT = click.IntRange(min=1)
_AMOUNT = click.FloatRange(min=0.0)
_BITS = 8
_MILLI = 1e-3
_LONG = 60_000
"""Stages x tokens from which processes pay for their start, about half a second each."""

Point = TypeVar("Point")
Found = TypeVar("Found")


def _drafting_flags(command: Callable[..., None]) -> Callable[..., None]:
    return with_flags(
        command,
        click.option(
            "--strategy",
            "strategies",
            default=_DEFAULT_STRATEGIES,
            show_default=True,
            metavar="A,B,...",
            help=f"Strategies to compare, of {', '.join(PRESETS)}.",
        ),
        click.option(
            "--acceptance",
            default="0.8",
            show_default=True,
            metavar="H|FILE",
            help="Chance that the draft's first choice is right; or a JSON list of chances by depth, or of recorded "
            "outcomes 0 and 1 by position.",
        ),
        click.option(
            "--rescue",
            type=click.FloatRange(0.0, 1.0),
            default=0.45,
            show_default=True,
            help="Chance that the second choice is right if the first is not; each further one gets half of that of "
            "the rest.",
        ),
        click.option(
            "--promised",
            type=click.FloatRange(0.0, 1.0),
            help="The chance of its first choices that the draft claims; default: the true one, of --acceptance.",
        ),
        click.option("--width", type=_COUNT, default=4, show_default=True, help="Most draft tokens for one position."),
        click.option("--chain", type=_COUNT, help="Draft tokens in a chain of sync; default: the best."),
        click.option("--lead", type=_COUNT, help="How far draft tokens may run ahead; default: as far as it pays."),
        click.option("--draft-ms", type=_AMOUNT, default=1.0, show_default=True, help="The draft's time for one row."),
        click.option(
            "--cascade",
            "--ladder",
            metavar="MS:H[:STAGES],...",
            help="Models below the target instead of the draft, the lowest first: the time of a pass, or of 1, 2, ... "
            "rows like 22/28 (the last holds for more), how often it agrees with the model above, stages. Like "
            "12:0.93,22/28:0.92.",
        ),
    )


def _cluster_flags(command: Callable[..., None]) -> Callable[..., None]:
    return with_flags(
        command,
        click.option("--stages", type=_COUNT, default=4, show_default=True, help="Stages of the target's pipeline."),
        click.option(
            "--stage-ms",
            type=click.FloatRange(min=0.0, min_open=True),
            default=10.0,
            show_default=True,
            help="A stage's time for one row.",
        ),
        click.option(
            "--rows",
            default="flat",
            show_default=True,
            metavar="flat|cpu|cpu4|cpu8|moe|gpu4|FILE",
            help="What more rows cost: nothing, as measured with Q4_1 on a CPU (llama.cpp as it comes; with four rows "
            "of weights at once; with eight, as scripts/setup builds it), as on a mixture of experts, as with 4-bit "
            "kernels on GPUs; or a JSON list of factors for 1, 2, 3, ... rows.",
        ),
        click.option("--link-ms", type=_AMOUNT, default=0.0, show_default=True, help="Latency of a link."),
        click.option("--link-mbit", type=_AMOUNT, default=0.0, show_default=True, help="Rate of a link; 0: no limit."),
        click.option("--row-bytes", type=_COUNT, default=16384, show_default=True, help="Activations of one row."),
    )


def _work_flags(command: Callable[..., None]) -> Callable[..., None]:
    return with_flags(
        command,
        click.option(
            "--tokens",
            type=LengthRange(2),
            default="400",
            show_default=True,
            metavar="A[-B]",
            help="Of each answer; a range, of which each length is as likely, where there are many requests.",
        ),
        request_flags,
        click.option(
            "--seed",
            type=click.IntRange(0, 2**32 - 1),
            default=0,
            show_default=True,
            help="Draws which draft tokens are right.",
        ),
    )


@click.command()
@_cluster_flags
@_drafting_flags
@_work_flags
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object instead of the table.")
@click.option(
    "--trace",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write what each rank does, and when, for `mpispec trace` and ui.perfetto.dev; of one strategy.",
)
@click.option(
    "--png",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw speed-ups over stages and acceptance rates; of many requests, how long they waited.",
)
def simulate(is_json: bool, trace: Path | None, png: Path | None, **flags: Any) -> None:
    """Compare strategies in virtual time, without models and machines.

    The protocol is the real one; text, acceptance and all times are made up as you say. Next to each strategy stands
    the law: the bound of a pipeline that is always full, for runs of one position, at the strategy's acceptance rate.

    With --requests it is a server's load instead: the requests come as you say, and each strategy is shown with what
    clients get and what the server does.
    """
    from mpispec.drawing.study_plot import check  # noqa: PLC0415  matplotlib is slow to load

    try:
        names = _names(flags["strategies"])
        study = study_of(flags)
        if png is not None:
            check(png)
        if trace is not None:
            _write_trace(trace, names, study, is_load(flags))
        if is_load(flags):
            _serve(names, *load_of(flags, study), is_json, png)
        else:
            _compare(names, study, is_json, png)
    except StudyError as error:
        complain(str(error))
        sys.exit(USAGE)


def _compare(names: Sequence[str], study: Study, is_json: bool, png: Path | None) -> None:
    """Show how fast one answer is."""
    outcomes = list(measured([(name, study) for name in names]))
    if is_json:
        click.echo(json.dumps({"results": [asdict(outcome) for outcome in outcomes], "synthetic": True}))
    else:
        click.echo("\n".join([*conditions(study), "", *table(outcomes), "", *remarks(outcomes)]))
    if png is not None:
        from mpispec.drawing.study_plot import draw  # noqa: PLC0415

        draw(png, names, study, measured)
        click.echo(f"{png}", err=is_json)


def _write_trace(path: Path, names: Sequence[str], study: Study, is_load: bool) -> None:
    """Keep the timeline of the only strategy. Raises StudyError."""
    if len(names) > 1 or is_load:
        raise StudyError("--trace keeps the timeline of one answer by one strategy; name it with --strategy.")
    try:
        write(path, record(names[0], study))
    except OSError as error:
        raise StudyError(f"The trace cannot be written to {path} ({error.strerror}).") from error


def _serve(names: Sequence[str], study: Study, load: Load, is_json: bool, png: Path | None) -> None:
    """Show what clients of a server under load get."""
    size = study.num_stages * sum(load.answer) // 2 * load.num_requests
    outcomes = list(spread(_served, [(name, study, load) for name in names], [size] * len(names)))
    if is_json:
        results = [{"strategy": outcome.strategy, **outcome.figures} for outcome in outcomes]
        click.echo(json.dumps({"results": results, "load": asdict(load), "synthetic": True}))
    else:
        click.echo("\n".join(load_report(outcomes, conditions(study)[:1], load, SYNTHETIC)))
    if png is not None:
        draw_load(png, outcomes, conditions(study)[:1], load)
        click.echo(f"{png}", err=is_json)


def _served(point: tuple[str, Study, Load]) -> LoadOutcome:
    return serve(*point)


def study_of(flags: dict[str, Any]) -> Study:
    """Return what the flags describe. Raises StudyError."""
    rate = flags["link_mbit"] * 1e6 / _BITS
    cascade = read_cascade(flags["cascade"])
    # Under a cascade the level next to the target is its draft.
    acceptance = (
        Acceptance((cascade[-1].acceptance,)) if cascade else read_acceptance(flags["acceptance"], flags["rescue"])
    )
    return Study(
        num_stages=flags["stages"],
        stage_s=flags["stage_ms"] * _MILLI,
        draft_s=cascade[-1].rows_s[0] if cascade else flags["draft_ms"] * _MILLI,
        link_s=flags["link_ms"] * _MILLI,
        link_bytes_per_s=rate or float("inf"),
        row_bytes=flags["row_bytes"],
        rows_factor=read_rows(flags["rows"]),
        acceptance=replace(acceptance, promised=flags["promised"]),
        width=flags["width"],
        lead=flags["lead"],
        chain=flags["chain"],
        num_tokens=_one_length(flags),
        seed=flags["seed"],
        cascade=cascade,
    )


def _one_length(flags: dict[str, Any]) -> int:
    least, most = flags["tokens"]
    if least != most and not is_load(flags):
        raise StudyError(f"--tokens {least}-{most} is for many answers; give one length, or --requests.")
    return int(most)


def _names(strategies: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in strategies.split(",") if name.strip()))
    unknown = [name for name in names if name not in PRESETS]
    if unknown or not names:
        what = f"knows no {' and no '.join(unknown)}" if unknown else "names no strategy"
        raise StudyError(f"--strategy {what}; choose of {', '.join(PRESETS)}, with commas between them.")
    return names


def measured(points: Sequence[tuple[str, Study]]) -> Iterator[Outcome]:
    """Measure strategies, on all cores if it takes long; outcomes come in order."""
    return spread(_point, points, [study.num_stages * study.num_tokens for _, study in points])


def _point(point: tuple[str, Study]) -> Outcome:
    name, study = point
    return measure(name, study)


def spread(work: Callable[[Point], Found], points: Sequence[Point], sizes: Sequence[int]) -> Iterator[Found]:
    """Yield the outcome of each point in order; `sizes` say how much work each is."""
    num_processes = min(len(os.sched_getaffinity(0)), len(points))
    if num_processes < 2 or sum(sizes) < _LONG:
        yield from map(work, points)
        return
    # Spawned, not forked: the command line has loaded libraries with threads of their own.
    with multiprocessing.get_context("spawn").Pool(num_processes, _leave_interrupts_to_the_parent) as pool:
        # The last strategies are the costliest to simulate, so they start first.
        pending = [pool.apply_async(work, (point,)) for point in reversed(points)]
        for found in reversed(pending):
            yield found.get()


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


# -- the table ----------------------------------------------------------------------------------------------------


def conditions(study: Study) -> list[str]:
    """Return what was simulated, in words."""
    acceptance = study.acceptance
    if acceptance.outcomes:
        chance = f"acceptance as recorded ({acceptance.mean:.0%} of {len(acceptance.outcomes)})"
    else:
        chance = f"first choice right {acceptance.mean:.1%}" + (
            " at first, less or more deeper" if acceptance.rates[1:] else ""
        )
    if acceptance.promised is not None:
        chance += f", {acceptance.promised:.1%} promised"
    rate = study.link_bytes_per_s * _BITS / 1e6
    speed = "no limit of rate" if rate == float("inf") else f"{rate:g} Mbit/s"
    four = study.costs.compute(Actor(1), 4) / study.stage_s
    many = f"{study.num_requests} requests at once, " if study.num_requests > 1 else ""
    draft = f"draft {study.draft_s * 1e3:g} ms"
    if study.cascade:
        models = (f"{model.rows_s[0] * 1e3:g} ms right {model.acceptance:.1%}" for model in study.cascade)
        draft = f"cascade of models ({', '.join(models)})"
    cluster = (
        f"{study.num_stages} stages of {study.stage_s * 1e3:g} ms a row (4 rows: {four:.2g}x), "
        f"{draft}, links {study.link_s * 1e3:g} ms and {speed}"
    )
    work = (
        f"{many}{study.num_tokens} tokens, {chance}, second choice right in {acceptance.rescue:.0%} of the rest; "
        f"tree width {study.width}, draft tokens at most {study.farthest} ahead, "
        f"chains of {study.chain or study.best_length()}"
    )
    return [cluster, work]


def remarks(outcomes: Sequence[Outcome]) -> list[str]:
    """Return what a reader should know of the table."""
    beyond = any(outcome.achieved_over_law > 1.0 + _NOTABLE for outcome in outcomes)
    below = any(outcome.achieved_over_law < 1.0 - _NOTABLE for outcome in outcomes)
    return [*([_BEYOND] if beyond else []), *([_BELOW] if below else []), SYNTHETIC]


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """Return outcomes as lines: the names on the left, all numbers right-aligned."""
    rows = [
        ("", "tokens", "speed-up", "the", "of the", "acceptance", "wasted", "", "runs"),
        ("strategy", "per s", "over plain", "law", "law", "rate", "rows", "runs", "cancelled"),
    ]
    for outcome in outcomes:
        rows.append(
            (
                outcome.strategy,
                f"{outcome.tokens_per_s:.2f}",
                f"{outcome.speedup_over_plain:.2f}x",
                f"{outcome.law_speedup:.2f}x",
                f"{outcome.achieved_over_law:.1%}",
                f"{outcome.acceptance_rate:.1%}" if outcome.strategy != BASELINE else "-",
                f"{outcome.wasted_rows:,}",
                f"{outcome.runs:,}",
                f"{outcome.cancelled:,}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for name, *cells in rows:
        numbers = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join([name.ljust(widths[0]), *numbers]))
    return [*lines[:2], "-" * len(lines[0]), *lines[2:]]
