"""The options of a job and of sampling, the same for every command that runs one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click

from mpispec.compute.base import DTYPES, QUANTIZATIONS, TorchOptions
from mpispec.compute.factory import BACKENDS
from mpispec.core.messages import Sampling
from mpispec.drafters import IN_HEAD
from mpispec.drafters.suffix_store import MOST_TOKENS
from mpispec.runtime.exactness import EXACTNESS
from mpispec.runtime.group import JobError
from mpispec.runtime.setup import JobOptions
from mpispec.strategies import PRESETS
from mpispec.wire.fields import MAX_SEED, SAMPLING_RANGES

_WIRES = ("f32", "f16", "bf16", "q8")
_MOST_TOP_K = int(SAMPLING_RANGES["top_k"][1])
Flag = Callable[[Callable[..., None]], Callable[..., None]]


class _NumberRange(click.FloatRange):
    """A range of numbers; click's own takes "nan" for being in every range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


class _Layers(click.IntRange):
    """A number of layers, -1 or "all" for all of them."""

    name = "number of layers, or all"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        return super().convert(-1 if value == "all" else value, param, ctx)


def prompt_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say what is continued and how far: `prompt`, `file`, `chat` and `max_tokens`."""
    flags = [
        click.option("--prompt", help="The text to continue; without it and --file, standard input is read."),
        click.option("--file", "file", type=click.Path(path_type=Path), help="Read the prompt from a file."),
        click.option("--chat", is_flag=True, help="Put the prompt into the model's chat template."),
        click.option(
            "-n", "max_tokens", type=click.IntRange(min=1), default=128, show_default=True, help="Most tokens."
        ),
    ]
    return with_flags(command, *flags)


def job_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that `job_options` reads."""
    flags: list[Flag] = [
        click.option(
            "--model",
            metavar="MODEL",
            help="A GGUF file, a Hugging Face folder, or hf:owner/repo[/file.gguf]; default: SmolLM2-135M-Instruct.",
        ),
        *backend_flags(),
        click.option("--draft", metavar="MODEL", help="A smaller model of the same vocabulary that drafts ahead."),
        click.option(
            "--cascade",
            "--ladder",
            metavar="M0,M1,...",
            help="Several such models instead, the smallest first: each verifies the one before it.",
        ),
        click.option(
            "--strategy",
            type=click.Choice(list(PRESETS)),
            help="What is dispatched next. [default: auto; pipespec with --cascade]",
        ),
        *drafter_flags(),
        click.option(
            "--exit", "exits", type=int, multiple=True, metavar="STAGE", help="Let this stage draft too; repeatable."
        ),
        click.option("--ctx", "context", type=click.IntRange(min=2), help="Positions of one request. [default: 2048]"),
        click.option(
            "--threads", type=click.IntRange(min=1), help="Threads of each compute; default: the host's share."
        ),
        click.option("--layout", help="Who holds what, like 0:0-9,1:draft,2:10-19,3:torch/bfloat16/cuda:1:20-29."),
        click.option(
            "--balance", "is_balanced", is_flag=True, help="Measure the hosts first; the faster one gets more layers."
        ),
        _exactness_flag(),
        click.option("--wire", type=click.Choice(_WIRES), default="f32", show_default=True, help="Activation format."),
        *torch_flags(),
        click.option("--insist", is_flag=True, help="Run what is not certified, or seems too large for memory."),
    ]
    return with_flags(command, *flags)


def _exactness_flag() -> Flag:
    return click.option(
        "--exactness",
        type=click.Choice(EXACTNESS),
        default="auto",
        show_default=True,
        help="With several requests at once: exact keeps each text that of the model alone, throughput need not.",
    )


def drafter_flags() -> tuple[Flag, ...]:
    """Return the options that say what drafts, and what n-grams draft from."""
    return (
        click.option(
            "--drafter",
            "--proposer",
            metavar="draft|exit|ngram|draft+ngram|exit+ngram|oracle:H|none",
            help="What drafts; default: draft or exit if given, else ngram. oracle:H is scripted, for benchmarks.",
        ),
        click.option(
            "--ngram-tokens",
            type=click.IntRange(min=0),
            default=MOST_TOKENS,
            show_default=True,
            help="Tokens of earlier requests that n-grams draft from; 0: each request from its own text alone.",
        ),
        click.option(
            "--ngram-file",
            type=click.Path(path_type=Path),
            help="Keep these tokens, which are what was said, in a file for the next start.",
        ),
    )


def backend_flags() -> tuple[Flag, ...]:
    """Return the options that say what computes the model."""
    return (
        click.option(
            "--backend",
            type=click.Choice(("auto", *BACKENDS)),
            default="auto",
            show_default=True,
            help="What computes the model; auto: llama for a GGUF file, torch for a folder.",
        ),
        click.option(
            "--other-form",
            metavar="MODEL",
            help="The same model in its other form, GGUF or folder, for ranks that --layout names.",
        ),
        gpu_layers_flag(),
    )


def gpu_layers_flag() -> Flag:
    """Return the option that says how many layers llama.cpp keeps on a GPU."""
    return click.option(
        "--gpu-layers",
        "-ngl",
        "gpu_layers",
        type=_Layers(min=-1),
        default="0",
        show_default=True,
        metavar="N|all",
        help="Layers of a rank that llama.cpp keeps on its GPU, if it has one.",
    )


def torch_flags() -> tuple[Flag, ...]:
    """Return the options of Hugging Face models."""
    return (
        click.option(
            "--dtype",
            type=click.Choice(DTYPES),
            default="auto",
            help="Numbers that torch computes in. [default: float32 on a CPU, bfloat16 on a GPU]",
        ),
        click.option(
            "--device",
            metavar="cpu|cuda[:N]",
            default="auto",
            help="Where torch computes. [default: a GPU if there is one]",
        ),
        click.option(
            "--quantization",
            type=click.Choice(QUANTIZATIONS),
            help="Round weights to these numbers while they are loaded on torch.",
        ),
        click.option(
            "--trust-remote-code",
            "runs_code",
            is_flag=True,
            help="Run the code that a Hugging Face folder brings; it can do all that you can.",
        ),
    )


def sampling_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that `read_sampling` reads."""
    flags = [
        click.option(
            "--temperature",
            type=_NumberRange(0.0, 100.0),
            help="0 takes the likeliest token. [default: 0; in a chat this and the next four as the model recommends]",
        ),
        click.option("--top-k", type=click.IntRange(0, _MOST_TOP_K), help="0 keeps all."),
        click.option("--top-p", type=_NumberRange(0.0, 1.0, min_open=True)),
        click.option("--min-p", type=_NumberRange(0.0, 1.0)),
        click.option("--repeat-penalty", type=_NumberRange(SAMPLING_RANGES["repeat_penalty"][0], 10.0)),
        click.option("--seed", type=click.IntRange(0, MAX_SEED), help="[default: 0; a random one in serve]"),
    ]
    return with_flags(command, *flags)


def repeats_flag(command: Callable[..., None]) -> Callable[..., None]:
    """Add the option that says whether an answer that only repeats itself is cut."""
    words = "Cut an answer that only repeats itself. [default: in a chat]"
    return with_flags(command, click.option("--cut-repeats/--no-cut-repeats", default=None, help=words))


def with_flags(command: Callable[..., None], *flags: Flag) -> Callable[..., None]:
    """Add options to a command, which lists them in this order."""
    for flag in reversed(flags):
        command = flag(command)
    return command


def job_options(flags: dict[str, Any], is_traced: bool = False) -> JobOptions:
    """Return what the job flags say; JobError where they make no sense."""
    drafter = flags["drafter"]
    acceptance_rate = 0.0
    if drafter is not None and drafter.startswith("oracle"):
        acceptance_rate = _acceptance_rate(drafter)
        drafter = "oracle"
    if drafter not in (None, "draft", "exit", "oracle", "none", *IN_HEAD):
        raise JobError(f"--drafter {drafter} is none of draft, exit, {', '.join(IN_HEAD)}, oracle:H and none.")
    models = _cascade(flags["cascade"], flags["draft"])
    return JobOptions(
        model=flags["model"],
        backend=flags["backend"],
        other_form=flags["other_form"],
        draft=models[0] if models else None,
        cascade=models[1:],
        context=flags["context"],
        threads=flags["threads"],
        layout=flags["layout"],
        is_balanced=flags["is_balanced"],
        exactness=flags["exactness"],
        wire=flags["wire"],
        strategy=flags["strategy"] or ("pipespec" if flags["cascade"] else "auto"),
        drafter=drafter,
        ngram_tokens=flags["ngram_tokens"],
        ngram_file=flags["ngram_file"],
        oracle_acceptance_rate=acceptance_rate,
        exits=flags["exits"],
        torch=TorchOptions(flags["dtype"], flags["device"], flags["runs_code"], flags["quantization"]),
        gpu_layers=flags["gpu_layers"],
        insist=flags["insist"],
        is_traced=is_traced,
    )


def _acceptance_rate(drafter: str) -> float:
    """Return H of `oracle:H`. Raises JobError."""
    try:
        rate = float(drafter.removeprefix("oracle:"))
    except ValueError:
        rate = -1.0
    if not 0.0 <= rate <= 1.0:
        raise JobError(f"--drafter {drafter} needs an acceptance rate from 0 to 1, like oracle:0.8.")
    return rate


def _cascade(cascade: str | None, draft: str | None) -> tuple[str, ...]:
    """Return the models that draft, the smallest first; the draft alone where there is no cascade. Raises JobError."""
    if cascade is None:
        return (draft,) if draft is not None else ()
    if draft is not None:
        raise JobError("Give the models that draft with --draft or with --cascade, not with both.")
    models = tuple(name.strip() for name in cascade.split(","))
    if not all(models):
        raise JobError(f"--cascade {cascade!r} names no model in one place; write it as M0.gguf,M1.gguf.")
    return models


_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "seed")


def read_sampling(flags: Mapping[str, Any], recommended: Mapping[str, Any] = MappingProxyType({})) -> Sampling:
    """Return what the sampling flags say; what they leave open is as recommended, else neutral.

    Who wants the temperature 0 wants the likeliest token, so nothing else is recommended then.
    """
    given = {name: flags[name] for name in _SAMPLING if flags[name] is not None}
    return Sampling(**{**({} if given.get("temperature") == 0.0 else recommended), **given})
