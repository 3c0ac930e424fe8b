"""`mpispec bench serve`: what clients of a server get while many of them ask at once."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpispec.bench.compare_plot import check
from mpispec.bench.errors import BenchError
from mpispec.bench.facts import facts_sentence, host_facts
from mpispec.bench.printing import json_flag, show
from mpispec.bench.prompts import Prompts, read_text
from mpispec.commands.flags import with_flags
from mpispec.commands.load_flags import LengthRange, describe, load_flags
from mpispec.commands.load_table import load_lines
from mpispec.core.statistics import RunCounts, Statistics
from mpispec.load import Load, Served, figures, work
from mpispec.runtime.process import INTERRUPTED
from mpispec.serve.http.address import KEY_VARIABLE

if TYPE_CHECKING:
    from mpispec.bench.serve_client import Server, Target

_CLIENTS = 4
_STEPS = 10
"""How often progress is shown."""


def _target_flags(command: Callable[..., None]) -> Callable[..., None]:
    return with_flags(
        command,
        click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="Where the server listens."),
        click.option("--api-key", envvar=KEY_VARIABLE, help="If the server demands one."),
        click.option("--model", help="The name to ask for. [default: the server's first]"),
        click.option("--completions", "is_text", is_flag=True, help="Continue texts instead of chatting."),
        click.option("--temperature", type=click.FloatRange(0.0, 2.0), default=0.0, show_default=True),
        click.option(
            "--body", metavar="JSON", help="""Further fields of every request, like '{"strategy": "plain"}'."""
        ),
        click.option(
            "--timeout", type=click.FloatRange(min=0.1), default=600.0, show_default=True, help="Seconds of one answer."
        ),
    )


def _work_flags(command: Callable[..., None]) -> Callable[..., None]:
    return with_flags(
        command,
        click.option("--requests", type=click.IntRange(1, 100_000), default=32, show_default=True),
        load_flags,
        click.option(
            "--prompt-words", type=LengthRange(), default="20-200", show_default=True, metavar="A[-B]", help="Each."
        ),
        click.option(
            "--answer-tokens",
            type=LengthRange(),
            default="16-128",
            show_default=True,
            metavar="A[-B]",
            help="The most of each answer.",
        ),
        click.option(
            "--prefix-words",
            type=click.IntRange(min=0),
            default=0,
            help="Words that all prompts begin with; the system message of a chat.",
        ),
        click.option("--text", "text_file", type=click.Path(path_type=Path), help="Cut prompts out of this file."),
        click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Draws it all."),
    )


@click.command()
@_target_flags
@_work_flags
@json_flag
@click.option("--png", type=click.Path(path_type=Path, dir_okay=False), help="Draw waiting times and requests.")
def serve(is_json: bool, png: Path | None, **flags: Any) -> None:
    """Load a server with requests, as its clients would.

    Any server in OpenAI's form; one of mpispec also tells what it did. Without --rate, --concurrency clients ask again
    after each answer, 4 by default. The same seed sends the same requests.
    """
    load, target = _load_of(flags), _target_of(flags)
    prompts = Prompts(read_text(flags["text_file"]), flags["prefix_words"], flags["seed"])
    if png is not None:
        check(png)
    served: list[Served] = []
    server, server_work, was_interrupted = _run(target, load, prompts, served)
    found = {
        "url": target.url,
        "model": server.model,
        "chat": target.is_chat,
        "load": asdict(load) | {"prefix_words": flags["prefix_words"]},
        "temperature": target.temperature,
        **figures(served),
        **(server_work or {}),
        "failures": dict(Counter(one.failure for one in served if one.outcome == "failed").most_common()),
        "hosts": [host_facts()],
    }
    _check_answered(found, was_interrupted)
    show(found, _lines(found, load, served, server.is_mpispec), is_json)
    if png is not None:
        _draw(png, found, load, served)
    if was_interrupted:
        sys.exit(INTERRUPTED)


def _load_of(flags: dict[str, Any]) -> Load:
    if flags["rate"] is not None and flags["concurrency"] is not None:
        raise BenchError("--rate has requests come by themselves and --concurrency by clients that wait; give one.")
    return Load(
        flags["requests"],
        flags["prompt_words"],
        flags["answer_tokens"],
        flags["rate"],
        flags["concurrency"] or _CLIENTS,
        flags["cancel"],
        flags["seed"],
    )


def _target_of(flags: dict[str, Any]) -> Target:
    if importlib.util.find_spec("httpx") is None:
        raise BenchError("Loading a server needs httpx; install it with `pip install 'mpispec[bench]'`.")
    from mpispec.bench.serve_client import Target  # noqa: PLC0415  httpx is an optional extra

    return Target(
        flags["url"],
        flags["api_key"],
        flags["model"],
        not flags["is_text"],
        flags["temperature"],
        flags["seed"],
        _fields(flags["body"]),
        flags["timeout"],
    )


def _fields(text: str | None) -> dict[str, Any]:
    try:
        fields = json.loads(text or "{}")
    except ValueError as error:
        raise BenchError(f'--body is not JSON ({error}); write an object like {{"top_k": 40}}.') from None
    if not isinstance(fields, dict):
        raise BenchError('--body must be a JSON object; write it like {"top_k": 40}.')
    return fields


def _run(
    target: Target, load: Load, prompts: Prompts, served: list[Served]
) -> tuple[Server, dict[str, Any] | None, bool]:
    """Fill `served`; return who served, what that did if it tells, and whether Ctrl-C ended it."""
    from mpispec.bench.serve_client import Client  # noqa: PLC0415

    met: list[Server] = []

    def ended(one: Served) -> None:
        served.append(one)
        if len(served) * _STEPS // load.num_requests > (len(served) - 1) * _STEPS // load.num_requests:
            num_failed = sum(each.outcome == "failed" for each in served)
            failed = f", {num_failed} failed" if num_failed else ""
            click.echo(f"{len(served)} of {load.num_requests} requests{failed}", err=True)

    async def run() -> dict[str, Any] | None:
        async with Client(target) as client:
            met.append(await client.meet())
            before = await client.stats() if met[0].is_mpispec else None
            await client.run(load, prompts, met[0].model, ended)
            after = await client.stats() if before is not None else None
            return None if before is None or after is None else _work_between(before, after)

    try:
        server_work = asyncio.run(run())
        return met[0], server_work, False
    except KeyboardInterrupt:
        if not met:
            raise
        return met[0], None, True


def _work_between(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return what an mpispec server did between two readings of its counters."""
    counts = RunCounts(**{name: after["dispatched"][name] - of for name, of in before["dispatched"].items()})
    statistics = Statistics(**{name: after[name] - before[name] for name in ("drafted", "accepted", "verified")})
    earlier = {rank["rank"]: rank["busy_s"] for rank in before["ranks"]}
    busy = {
        f"rank {rank['rank']}": rank["busy_s"] - earlier[rank["rank"]]
        for rank in after["ranks"]
        if rank["rank"] in earlier
    }
    return work(counts, statistics, busy, after["read_s"] - before["read_s"])


def _check_answered(found: dict[str, Any], was_interrupted: bool) -> None:
    """Raise BenchError where no request got anything."""
    requests = found["requests"]
    if requests["ok"] or requests["cancelled"]:
        return
    if was_interrupted:
        raise BenchError("Interrupted before the first answer had ended.")
    reason = next(iter(found["failures"]))
    raise BenchError(f"None of {requests['failed']} requests was answered; most often: {reason.rstrip('.')}.")


def _lines(found: dict[str, Any], load: Load, served: Sequence[Served], is_mpispec: bool) -> list[str]:
    lines = [f"{found['model']} at {found['url']}: {describe(load, 'words')}", "", *load_lines({"": found}), ""]
    lines += [f"{count} failed: {reason}" for reason, count in found["failures"].items()]
    uncounted = sum(one.outcome == "ok" and one.prompt_tokens is None for one in served)
    if uncounted:
        lines.append(f"{uncounted} answers came without token counts; their chunks were counted instead.")
    if found["requests"]["cancelled"]:
        lines.append("Of cancelled answers the chunks were counted.")
    if "runs" not in found:
        why = "could not be asked at the end for" if is_mpispec else "does not tell"
        lines.append(f"The server {why} its acceptance rate, rows a run and idle ranks.")
    return lines


def _draw(png: Path, found: dict[str, Any], load: Load, served: Sequence[Served]) -> None:
    from mpispec.drawing.load_plot import draw  # noqa: PLC0415  matplotlib is slow to load

    foot = f"{describe(load, 'words')}\n{facts_sentence(found['hosts'][0])}"
    draw(png, f"mpispec bench serve: {found['model']} at {found['url']}", foot, {found["model"]: served})
    click.echo(f"{png}", err=True)
