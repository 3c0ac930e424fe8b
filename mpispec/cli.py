"""The command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from mpispec import __version__
from mpispec.bench.group import bench
from mpispec.cluster.guessers import read_hit_rate, read_ladder
from mpispec.cluster.once import OncePerJob
from mpispec.cluster.plan_table import plan_lines, report_lines, table
from mpispec.cluster.ranks import INTERRUPTED, USAGE, Interrupts, advise, complain, joined, knows_end_of_input
from mpispec.cluster.simulate import simulate
from mpispec.core.messages import Sampling
from mpispec.models.errors import ModelError
from mpispec.runtime.engine import Generation
from mpispec.runtime.group import Group, JobError, agree
from mpispec.runtime.job import JobOptions, Session, Setup, prepare, run
from mpispec.runtime.trace import write
from mpispec.strategies import PRESETS

_WIRES = ("f32", "f16", "bf16", "q8")


@click.group(cls=OncePerJob, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="mpispec")
def main() -> None:
    """Run one language model over several machines, made fast by guessing ahead.

    Start `generate` and `serve` under mpirun to use several ranks: mpirun -np 4 mpispec generate --prompt "..."
    """


# -- options that generate and serve share ------------------------------------------------------------------------


def _job_flags(command: Callable[..., None]) -> Callable[..., None]:
    flags = [
        click.option(
            "--model", metavar="GGUF", help="Path or hf:owner/repo/file.gguf; default: SmolLM2-135M-Instruct."
        ),
        click.option("--draft", metavar="GGUF", help="A smaller model of the same vocabulary that guesses ahead."),
        click.option(
            "--ladder",
            metavar="M0,M1,...",
            help="Several such models instead, the smallest first: each verifies the one before it.",
        ),
        click.option(
            "--strategy",
            type=click.Choice(list(PRESETS)),
            help="What is launched next. [default: pipeinfer; pipespec with --ladder]",
        ),
        click.option(
            "--proposer",
            metavar="draft|exit|ngram|oracle:H|none",
            help="Who guesses; default: draft or exit if given, else ngram. oracle:H is scripted, for benchmarks.",
        ),
        click.option(
            "--exit", "exits", type=int, multiple=True, metavar="STAGE", help="Let this stage guess too; repeatable."
        ),
        click.option("--ctx", "context", type=click.IntRange(min=2), help="Positions of one request. [default: 2048]"),
        click.option(
            "--threads", type=click.IntRange(min=1), help="Threads of each compute; default: the host's share."
        ),
        click.option("--layout", help="Who holds what, like 0:0-9,1:draft,2:10-19,3:20-29."),
        click.option("--wire", type=click.Choice(_WIRES), default="f32", show_default=True, help="Activation format."),
        click.option("--insist", is_flag=True, help="Run a model whose layer ranges are not certified."),
    ]
    for flag in reversed(flags):
        command = flag(command)
    return command


def _sampling_flags(command: Callable[..., None]) -> Callable[..., None]:
    flags = [
        click.option("--temperature", type=click.FloatRange(0.0, 100.0), default=0.0, show_default=True),
        click.option("--top-k", type=click.IntRange(min=0), default=0, help="0 keeps all."),
        click.option("--top-p", type=click.FloatRange(0.0, 1.0, min_open=True), default=1.0),
        click.option("--min-p", type=click.FloatRange(0.0, 1.0), default=0.0),
        click.option("--repeat-penalty", type=click.FloatRange(0.0, 10.0, min_open=True), default=1.0),
        click.option("--seed", type=click.IntRange(0, 2**64 - 1), default=0, show_default=True),
    ]
    for flag in reversed(flags):
        command = flag(command)
    return command


def _job_options(flags: dict[str, Any], is_traced: bool = False) -> JobOptions:
    proposer = flags["proposer"]
    hit_rate = 0.0
    if proposer is not None and proposer.startswith("oracle"):
        hit_rate = read_hit_rate(proposer)
        proposer = "oracle"
    if proposer not in (None, "draft", "exit", "ngram", "oracle", "none"):
        raise JobError(f"--proposer {proposer} is none of draft, exit, ngram, oracle:H and none.")
    guessers = read_ladder(flags["ladder"], flags["draft"])
    return JobOptions(
        model=flags["model"],
        draft=guessers[0] if guessers else None,
        ladder=guessers[1:],
        context=flags["context"],
        threads=flags["threads"],
        layout=flags["layout"],
        wire=flags["wire"],
        strategy=flags["strategy"] or ("pipespec" if flags["ladder"] else "pipeinfer"),
        proposer=proposer,
        oracle_hit_rate=hit_rate,
        exits=flags["exits"],
        insist=flags["insist"],
        is_traced=is_traced,
    )


def _sampling(flags: dict[str, Any]) -> Sampling:
    return Sampling(
        temperature=flags["temperature"],
        top_k=flags["top_k"],
        top_p=flags["top_p"],
        min_p=flags["min_p"],
        repeat_penalty=flags["repeat_penalty"],
        seed=flags["seed"],
    )


# -- generate -----------------------------------------------------------------------------------------------------


@main.command()
@click.option("--prompt", help="The text to continue; without it and --file, standard input is read.")
@click.option("--file", "file", type=click.Path(path_type=Path), help="Read the prompt from a file.")
@click.option("--chat", is_flag=True, help="Put the prompt into the model's chat template.")
@click.option("-n", "max_tokens", type=click.IntRange(min=1), default=128, show_default=True, help="Most tokens.")
@_job_flags
@_sampling_flags
@click.option("--trace", type=click.Path(path_type=Path, dir_okay=False), help="Write a timeline for Perfetto.")
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object instead of the text.")
def generate(
    prompt: str | None, file: Path | None, chat: bool, max_tokens: int, trace: Path | None, is_json: bool, **flags: Any
) -> None:
    """Continue one prompt."""
    from mpispec.serve.generate import generate as answer  # noqa: PLC0415

    with joined() as group:
        options = agree(group, lambda: _job_options(flags, trace is not None))
        setup = prepare(options, group)
        text = agree(group, lambda: _read_prompt(prompt, file) if group.rank == 0 else "")
        vocabulary, tokens = agree(group, lambda: _tokenised(group, setup, text, chat))
        if trace is not None:
            agree(group, lambda: _check_writable(trace) if group.rank == 0 else None)
        _announce(group, setup, is_quiet=is_json)

        interrupts = Interrupts() if group.rank == 0 else None

        def application(session: Session) -> Any:
            assert interrupts is not None
            generation = Generation(tokens, max_tokens, _sampling(flags), options.strategy, options.proposer)
            return answer(session, vocabulary, generation, interrupts.call, is_json)

        outcome = run(options, group, setup, _stops(vocabulary), application, _progress(group, is_quiet=is_json))
        if outcome is None:
            return
        if trace is not None:
            write(trace, [(_rank_name(r), r.clock_offset, r.events) for r in outcome.ranks])
        if is_json:
            click.echo(json.dumps(outcome.value.to_json(outcome.ranks)))
        else:
            lines = [*table(outcome.value.summary()), "", *report_lines(outcome.ranks)]
            click.echo("\n" + "\n".join(lines), err=True)
        if outcome.value.was_interrupted:
            sys.exit(INTERRUPTED)


def _read_prompt(prompt: str | None, file: Path | None) -> str:
    if prompt is not None and file is not None:
        raise JobError("Give the prompt with --prompt or with --file, not with both.")
    if prompt is None and file is None and not knows_end_of_input():
        raise JobError("Open MPI does not tell where standard input ends; give the prompt with --prompt or --file.")
    source = file or "standard input"
    try:
        text = prompt if prompt is not None else file.read_text("utf-8") if file is not None else sys.stdin.read()
        if prompt is None:
            text = text.removesuffix("\n")  # it ends the file's last line, and a model would go on after it
    except OSError as error:
        raise JobError(
            f"The prompt cannot be read from {source} ({error.strerror}); name a text file, or give it with --prompt."
        ) from error
    except UnicodeDecodeError as error:
        raise JobError(f"The prompt in {source} is not UTF-8 text; convert it, or give it with --prompt.") from error
    if not text.strip():
        raise JobError("The prompt is empty; give some text with --prompt, --file or on standard input.")
    return text


def _tokenised(group: Group, setup: Setup, text: str, chat: bool) -> tuple[Any, tuple[int, ...]]:
    """Return the vocabulary and the prompt's tokens on rank 0, nothing elsewhere."""
    if group.rank != 0:
        return None, ()
    vocabulary = _vocabulary(setup)
    try:
        if chat:
            text = _template(vocabulary).render([{"role": "user", "content": text}])
    except ModelError as error:
        raise JobError(str(error)) from error
    tokens = tuple(vocabulary.tokenize(text, special=chat))
    if len(tokens) >= setup.context:
        raise JobError(
            f"The prompt has {len(tokens)} tokens and the context {setup.context}: shorten the prompt or start "
            f"with a larger --ctx (this model was trained for {setup.model.context})."
        )
    return vocabulary, tokens


def _vocabulary(setup: Setup) -> Any:
    from mpispec.compute.llama_vocabulary import Vocabulary  # noqa: PLC0415  loads libllama: only on rank 0

    try:
        return Vocabulary(setup.model.path)
    except ModelError as error:
        raise JobError(str(error)) from error


def _template(vocabulary: Any) -> Any:
    from mpispec.models.template import ChatTemplate  # noqa: PLC0415

    def text(token: int | None) -> str:
        return "" if token is None else vocabulary.piece(token, special=True).decode("utf-8", "replace")

    return ChatTemplate(vocabulary.chat_template, text(vocabulary.bos), text(vocabulary.eos))


def _stops(vocabulary: Any) -> frozenset[int]:
    return vocabulary.eog if vocabulary is not None else frozenset()


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
            click.echo(f"loading {what}", err=True)

    return show


def _rank_name(report: Any) -> str:
    return f"rank {report.rank} ({report.host}): {', '.join(report.roles)}"


# -- serve --------------------------------------------------------------------------------------------------------


@main.command()
@_job_flags
@_sampling_flags
@click.option("--parallel", type=click.IntRange(1, 64), default=1, show_default=True, help="Requests at once.")
@click.option("--repl/--no-repl", default=True, help="Chat on standard input of rank 0.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of the HTTP server.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one.")
@click.option("--api-key", envvar="MPISPEC_API_KEY", help="Demanded from clients; required off 127.0.0.1.")
def serve(parallel: int, repl: bool, host: str, port: int, api_key: str | None, **flags: Any) -> None:
    """Chat here, and answer OpenAI-compatible HTTP requests at the same time."""
    from dataclasses import replace  # noqa: PLC0415

    from mpispec.serve.interactive import make_service, open_door, serve_until_stopped  # noqa: PLC0415

    with joined() as group:
        options = replace(agree(group, lambda: _job_options(flags)), parallel=parallel)
        if options.proposer == "oracle":
            raise JobError("--proposer oracle:H needs a recorded text, which a server does not have; use generate.")
        setup = prepare(options, group)
        door = agree(group, lambda: open_door(host, port, api_key) if group.rank == 0 else None)
        vocabulary: Any = agree(group, lambda: _vocabulary(setup) if group.rank == 0 else None)
        _announce(group, setup, is_quiet=False)
        interrupts = Interrupts(goes_on=repl) if group.rank == 0 else None

        def application(session: Session) -> None:
            assert door is not None
            assert interrupts is not None
            service = make_service(session, vocabulary, _template(vocabulary), _sampling(flags))
            serve_until_stopped(service, door, repl, interrupts.call)

        run(options, group, setup, _stops(vocabulary), application, _progress(group, is_quiet=False))


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
        for layers in registry.ranges(summary.layers, parts, summary.unit, summary.head_layers):
            name = f"{summary.path.stem}.{layers.start:03}-{layers.stop - 1:03}.gguf"
            out.mkdir(parents=True, exist_ok=True)
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
    from mpispec.cluster.trace_plot import TraceError, draw  # noqa: PLC0415

    try:
        draw(trace, png, start, seconds)
    except TraceError as error:
        complain(str(error))
        sys.exit(USAGE)
    click.echo(f"{png}")


# -- studies ------------------------------------------------------------------------------------------------------

main.add_command(simulate)
main.add_command(bench)


if __name__ == "__main__":
    main()
