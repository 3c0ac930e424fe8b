"""The command line."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import click

from mpispec import __version__
from mpispec.bench.group import bench
from mpispec.commands.flags import job_flags, job_options, prompt_flags, read_sampling, repeats_flag, sampling_flags
from mpispec.commands.prompt import open_chat, read_prompt, recommended, stops_of, tokenised
from mpispec.commands.simulate import simulate
from mpispec.commands.tables import plan_lines, report_lines, table
from mpispec.models.default import ABOUT
from mpispec.models.errors import ModelError
from mpispec.models.recommended import Recommended
from mpispec.runtime.balance import balanced
from mpispec.runtime.engine import Engine, Generation
from mpispec.runtime.group import Group, JobError, agree
from mpispec.runtime.job import Outcome, Setup, prepare, run
from mpispec.runtime.process import (
    INTERRUPTED,
    USAGE,
    AskedToEnd,
    Interrupts,
    advise,
    complain,
    joined,
    leave_ending_to_rank_0,
)
from mpispec.runtime.trace import Event, write
from mpispec.sampling import describe
from mpispec.serve.service import Manner, Service
from mpispec.transport.environment import launched_rank


class OncePerJob(click.Group):
    """Says what it has to say about the command line on rank 0; all other ranks find the same and keep silent."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """See `click.Command.main`."""
        if launched_rank() == 0:
            return super().main(*args, **extra)
        with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
            try:
                sys.exit(super().main(*args, **{**extra, "standalone_mode": False}) or 0)
            except click.ClickException as error:
                sys.exit(error.exit_code)
            except click.Abort:
                sys.exit(INTERRUPTED)


@click.group(cls=OncePerJob, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="mpispec")
def main() -> None:
    """Run one language model over several machines, made fast by guessing ahead.

    Start `generate` and `serve` under mpirun to use several ranks: mpirun -np 4 mpispec generate --prompt "..."
    """


# -- generate -----------------------------------------------------------------------------------------------------


@main.command()
@prompt_flags
@job_flags
@sampling_flags
@repeats_flag
@click.option("--trace", type=click.Path(path_type=Path, dir_okay=False), help="Write a timeline for Perfetto.")
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object instead of the text.")
def generate(
    prompt: str | None, file: Path | None, chat: bool, max_tokens: int, trace: Path | None, is_json: bool, **flags: Any
) -> None:
    """Continue one prompt."""
    from mpispec.serve.generate import generate as answer  # noqa: PLC0415

    with joined() as group:
        options = agree(group, lambda: job_options(flags, trace is not None))
        setup = prepare(options, group)
        text = agree(group, lambda: read_prompt(prompt, file) if group.rank == 0 else "")
        vocabulary, tokens = agree(group, lambda: tokenised(group, setup, text, chat))
        advice = agree(group, lambda: recommended(group, setup))
        if trace is not None:
            agree(group, lambda: _check_writable(trace) if group.rank == 0 else None)
        progress = _progress(group, is_quiet=is_json)
        setup = balanced(options, group, setup, progress)
        _announce(group, setup, is_quiet=is_json)
        sampling = read_sampling(flags, advice.values if chat else {})
        if chat:
            progress(f"the answer is drawn with {describe(sampling)}")
        cuts = chat if flags["cut_repeats"] is None else flags["cut_repeats"]

        interrupts = Interrupts() if group.rank == 0 else None

        def application(engine: Engine) -> Any:
            assert interrupts is not None
            generation = Generation(tokens, max_tokens, sampling, options.strategy, options.proposer)
            return answer(engine, vocabulary, generation, interrupts.call, is_json, cuts)

        outcome = run(options, group, setup, stops_of(vocabulary), application, progress)
        if outcome is not None:
            _sum_up(outcome, is_json)
        if trace is not None:
            _keep_trace(group, trace, outcome)
        if outcome is not None and outcome.value.was_interrupted:
            sys.exit(INTERRUPTED)


def _sum_up(outcome: Outcome[Any], is_json: bool) -> None:
    if is_json:
        click.echo(json.dumps(outcome.value.to_json(outcome.ranks)))
    else:
        lines = [*table(outcome.value.summary()), "", *report_lines(outcome.ranks)]
        click.echo("\n" + "\n".join(lines), err=True)


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


def _announce(group: Group, setup: Setup, is_quiet: bool) -> None:
    if group.rank == 0 and not is_quiet:
        click.echo("\n".join(plan_lines(setup)) + "\n", err=True)
        advise()


def _progress(group: Group, is_quiet: bool) -> Callable[[str], None]:
    def show(what: str) -> None:
        if group.rank == 0 and not is_quiet:
            click.echo(what, err=True)

    return show


def _rank_name(report: Any) -> str:
    return f"rank {report.rank} ({report.host}): {', '.join(report.roles)}"


# -- serve --------------------------------------------------------------------------------------------------------


@main.command()
@job_flags
@sampling_flags
@repeats_flag
@click.option("--parallel", type=click.IntRange(1, 64), default=1, show_default=True, help="Requests at once.")
@click.option("--repl/--no-repl", default=True, help="Chat on standard input of rank 0.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of the HTTP server.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one.")
@click.option("--api-key", envvar="MPISPEC_API_KEY", help="Demanded from clients; required off 127.0.0.1.")
@click.option(
    "--grace",
    type=click.FloatRange(0, 86_400),
    default=30.0,
    show_default=True,
    help="Seconds that open requests get when SIGTERM asks the server to end.",
)
def serve(parallel: int, repl: bool, host: str, port: int, api_key: str | None, grace: float, **flags: Any) -> None:
    """Chat here, and answer OpenAI-compatible HTTP requests at the same time."""
    from dataclasses import replace  # noqa: PLC0415

    from mpispec.serve.interactive import Ends, open_door, serve_until_stopped  # noqa: PLC0415

    with joined() as group:
        options = replace(agree(group, lambda: job_options(flags)), parallel=parallel)
        if options.proposer == "oracle":
            raise JobError("--proposer oracle:H needs a recorded text, which a server does not have; use generate.")
        setup = prepare(options, group)
        door = agree(group, lambda: open_door(host, port, api_key) if group.rank == 0 else None)
        vocabulary, template = agree(group, lambda: open_chat(group, setup))
        manner = _manner(flags, agree(group, lambda: recommended(group, setup)))
        progress = _progress(group, is_quiet=False)
        setup = balanced(options, group, setup, progress)
        _announce(group, setup, is_quiet=False)
        ends = None
        if group.rank == 0:
            ends = Ends(Interrupts(goes_on=repl).call, AskedToEnd().call, grace)
        else:
            leave_ending_to_rank_0(grace)

        def application(engine: Engine) -> None:
            assert door is not None
            assert ends is not None
            name, greeting = setup.model.path.stem, "" if options.model else ABOUT
            service = Service(engine, vocabulary, template.render, name, manner, greeting)
            serve_until_stopped(service, door, repl, ends)

        run(options, group, setup, stops_of(vocabulary), application, progress)


def _manner(flags: dict[str, Any], advice: Recommended) -> Manner:
    sampling = read_sampling(flags, advice.values)
    likeliest = read_sampling({**flags, "temperature": 0.0})
    is_advised = any(flags.get(name) is None for name in advice.values) and flags["temperature"] != 0.0
    cuts = True if flags["cut_repeats"] is None else flags["cut_repeats"]
    return Manner(sampling, likeliest, flags["seed"], advice.source if is_advised else "", cuts)


# -- models -------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("model", required=False)
def inspect(model: str | None) -> None:
    """Show layers and sizes of a model, and whether it may be cut into layer ranges."""
    from mpispec.models import default, registry  # noqa: PLC0415

    with _sentences():
        summary = registry.inspect(default.resolve(model))
        rows = [
            ("file", f"{summary.path} ({summary.file_bytes / 1e6:.1f} MB)"),
            ("name", summary.name),
            ("architecture", summary.architecture),
            ("layers", str(summary.layers)),
            ("activation", f"{summary.width} numbers a token, {4 * summary.width} bytes on the wire"),
            ("context", f"{summary.context} positions"),
            ("vocabulary", f"{summary.vocabulary} tokens"),
            ("embedding", f"{summary.embedding_bytes / 1e6:.1f} MB"),
            ("projection", f"{summary.head_bytes / 1e6:.1f} MB, costs as much as {summary.head_layers:.1f} layers"),
            ("a layer", _layer_sizes(summary.layer_bytes)),
            ("certified", f"{'yes' if summary.certified else 'no'}: {summary.reason}"),
        ]
        click.echo("\n".join(table(rows)))


@main.command()
@click.argument("model", required=False)
@click.option("--parts", type=click.IntRange(min=1), required=True, help="Number of layer ranges.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path(), help="Folder for the parts.")
@click.option("--insist", is_flag=True, help="Cut a model whose layer ranges are not certified.")
def cut(model: str | None, parts: int, out: Path, insist: bool) -> None:
    """Cut a model into layer ranges by hand; `generate` and `serve` do it by themselves."""
    from mpispec.models import cut as cutting  # noqa: PLC0415
    from mpispec.models import default, registry  # noqa: PLC0415

    with _sentences():
        summary = registry.inspect(default.resolve(model))
        pieces = registry.ranges(summary.layers, parts, summary.unit, summary.head_layers)
        cutting.make_folder(out)
        for layers in pieces:
            name = f"{summary.path.stem}.{layers.start:03}-{layers.stop - 1:03}.gguf"
            cutting.cut(summary.path, layers, out / name, insist=insist)
            click.echo(f"{out / name}  layers {layers.start}-{layers.stop - 1}")


@contextmanager
def _sentences() -> Iterator[None]:
    """Turn a model's error into a sentence and an exit code."""
    try:
        yield
    except (ModelError, OSError) as error:
        complain(str(error))
        sys.exit(USAGE)


def _layer_sizes(sizes: tuple[int, ...]) -> str:
    low, high = min(sizes) / 1e6, max(sizes) / 1e6
    return f"{low:.1f} MB" if f"{low:.1f}" == f"{high:.1f}" else f"{low:.1f} to {high:.1f} MB"


# -- traces -------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("trace", type=click.Path(path_type=Path))
@click.option("--png", type=click.Path(path_type=Path, dir_okay=False), required=True, help="Picture to write.")
@click.option("--from", "start", type=float, default=0.0, help="First second to draw.")
@click.option("--seconds", type=click.FloatRange(min=0.0, min_open=True), help="How much to draw; default: all.")
def trace(trace: Path, png: Path, start: float, seconds: float | None) -> None:
    """Draw a timeline that --trace has written."""
    from mpispec.drawing.trace_plot import TraceError, draw  # noqa: PLC0415

    try:
        draw(trace, png, start, seconds)
    except TraceError as error:
        complain(str(error))
        sys.exit(USAGE)
    click.echo(f"{png}")


# -- studies and benchmarks -------------------------------------------------------------------------------------------

main.add_command(simulate)
main.add_command(bench)


if __name__ == "__main__":
    main()
