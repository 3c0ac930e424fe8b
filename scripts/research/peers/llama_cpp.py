"""Measure llama.cpp on one host, or on several by its RPC, as `mpispec generate --json` reports it.

Started by scripts/peers/llama-cpp on the first of the hosts.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from mpispec.bench.command import run
from mpispec.bench.errors import BenchError
from mpispec.bench.termination import terminated_in_order
from mpispec.commands.flags import with_flags
from mpispec.compute.llama_vocabulary import Vocabulary
from mpispec.models import default, registry
from mpispec.serve.text.opening import open_template
from research.peers.llama_server import Deployment, serving
from research.peers.settings import (
    SEARCH_ALWAYS,
    SEARCH_DRAFT,
    SEARCH_SPLIT,
    Settings,
    Trial,
    read,
    search,
    write,
)

_LOOK_SECONDS = 0.5
"""How often a server is looked at."""


def _deployment_flags(command: Callable[..., None]) -> Callable[..., None]:
    flags = [
        click.option("--model", metavar="MODEL", help="The target; the default model without it."),
        click.option("--draft", metavar="MODEL", help="A draft, computed by the first host."),
        click.option(
            "--hostfile",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Split the layers evenly over these hosts; the first one is where this runs. Without it: whole here.",
        ),
        click.option(
            "--agent",
            default="ssh -oBatchMode=yes",
            show_default=True,
            help="Runs a command there: AGENT HOST COMMAND.",
        ),
        click.option("--ctx", "context", type=click.IntRange(min=2), default=2048, show_default=True),
        click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of each host."),
    ]
    return with_flags(command, *flags)


def _prompt_flags(command: Callable[..., None]) -> Callable[..., None]:
    flags = [
        click.option("--file", "file", type=click.Path(path_type=Path), required=True, help="Read the prompt from it."),
        click.option("--chat", is_flag=True, help="Put the prompt into the model's chat template."),
        click.option("-n", "max_tokens", type=click.IntRange(min=2), default=128, show_default=True),
    ]
    return with_flags(command, *flags)


_settings_flag = click.option(
    "--settings", type=click.Path(path_type=Path), help="What `search` has found; llama.cpp's own without."
)


@click.group()
def main() -> None:
    """Measure llama.cpp, on one host or over several."""


@main.command("run")
@_deployment_flags
@_prompt_flags
@_settings_flag
def run_once(settings: Path | None, max_tokens: int, file: Path, chat: bool, **flags: Any) -> None:
    """Answer one prompt once and print one JSON object."""
    deployment = _deployment(**flags)
    prompt = _prompt(deployment.target, file, chat)
    click.echo(json.dumps(_measure(deployment, _chosen(settings), prompt, max_tokens)))


@main.command("serve")
@_deployment_flags
@_settings_flag
@click.option("--port", type=click.IntRange(1, 65535), default=8090, show_default=True)
@click.option("--parallel", type=click.IntRange(min=1), default=8, show_default=True, help="Requests at once.")
def serve(settings: Path | None, **flags: Any) -> None:
    """Serve requests until a signal ends it."""
    with terminated_in_order(), serving(_deployment(**flags), _chosen(settings)) as server:
        while True:
            server.require()
            time.sleep(_LOOK_SECONDS)


@main.command("search")
@_deployment_flags
@_prompt_flags
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Goes on with what it holds already.")
def search_settings(out: Path, max_tokens: int, file: Path, chat: bool, **flags: Any) -> None:
    """Find better settings than llama.cpp's own, one after the other, and write them to a file."""
    deployment = _deployment(**flags)
    prompt = _prompt(deployment.target, file, chat)
    choices = (
        *(SEARCH_SPLIT if len(deployment.hosts) > 1 else ()),
        *SEARCH_ALWAYS,
        *(SEARCH_DRAFT if deployment.draft is not None else ()),
    )

    def measure(settings: Settings) -> dict[str, float]:
        click.echo(" ".join(f"{key}={value}" for key, value in asdict(settings).items() if value is not None), err=True)
        found = _measure(deployment, settings, prompt, max_tokens)
        speeds = {
            "prompt_tokens_per_s": found["prompt_tokens"] / found["timing"]["prefill_s"],
            "tokens_per_s": found["timing"]["tokens_per_s"],
        }
        click.echo("  prompt {prompt_tokens_per_s:.2f}, decode {tokens_per_s:.2f} tokens/s".format(**speeds), err=True)
        return speeds

    known: list[Trial] = read(out)[1] if out.exists() else []
    for best, trials in search(choices, measure, known):
        write(out, best, trials)
    reached = next(trial for trial in trials if trial["settings"] == asdict(best))
    click.echo(json.dumps({"best": asdict(best), "reached": reached, "trials": len(trials)}))


def _chosen(settings: Path | None) -> Settings:
    return Settings() if settings is None else read(settings)[0]


def _deployment(model: str | None, draft: str | None, hostfile: Path | None, agent: str, **flags: Any) -> Deployment:
    """Return what runs where. Raises BenchError and ModelError."""
    target = default.resolve(model)
    return Deployment(
        target=target,
        layers=registry.inspect(target).layers,
        draft=None if draft is None else default.resolve(draft),
        hosts=("localhost",) if hostfile is None else _hosts(hostfile),
        agent=tuple(shlex.split(agent)),
        **flags,
    )


def _hosts(hostfile: Path) -> tuple[str, ...]:
    """Read the names out of a hostfile of MPICH (`name:slots`) or Open MPI (`name slots=...`)."""
    lines = (line.partition("#")[0].split() for line in _text(hostfile).splitlines())
    hosts = tuple(words[0].partition(":")[0] for words in lines if words)
    if not hosts:
        raise BenchError(f"{hostfile} names no host; write one a line.")
    return hosts


def _prompt(model: Path, file: Path, is_chat: bool) -> list[int]:
    text = _text(file).removesuffix("\n")  # as `mpispec generate` reads it
    vocabulary = Vocabulary(model)
    try:
        if is_chat:
            text = open_template(vocabulary).render([{"role": "user", "content": text}])
        prompt = list(vocabulary.tokenize(text, special=is_chat))
    finally:
        vocabulary.close()
    if not prompt:
        raise BenchError(f"The prompt in {file} is empty; write some text into it.")
    return prompt


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except OSError as error:
        raise BenchError(f"{file} cannot be read ({error.strerror}); name a text file.") from error
    except UnicodeDecodeError as error:
        raise BenchError(f"{file} is not UTF-8 text; name another file.") from error


def _measure(deployment: Deployment, settings: Settings, prompt: list[int], max_tokens: int) -> dict[str, Any]:
    """Start everything, answer once, end everything. Raises BenchError."""
    began = time.monotonic()
    with terminated_in_order(), serving(deployment, settings) as server:
        start_s = time.monotonic() - began
        found = server.complete(prompt, max_tokens)
    timings = found["timings"]
    if timings["prompt_n"] != len(prompt):
        raise BenchError(
            f"llama-server computed {timings['prompt_n']} tokens of a prompt of {len(prompt)}; choose a larger --ctx."
        )
    return {
        "text": found["content"],
        "tokens": found["tokens"],
        "finish_reason": "length" if found["stop_type"] == "limit" else "stop",
        "prompt_tokens": len(prompt),
        "timing": {
            "start_s": round(start_s, 3),
            "prefill_s": timings["prompt_ms"] / 1e3,
            "decode_s": timings["predicted_ms"] / 1e3,
            "tokens_per_s": timings["predicted_per_second"],
        },
        "speculation": {"drafted": timings.get("draft_n", 0), "accepted": timings.get("draft_n_accepted", 0)},
        "hosts": list(deployment.hosts),
        "settings": asdict(settings),
    }


if __name__ == "__main__":
    run(main)
