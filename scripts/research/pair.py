"""Make a target and a draft that agree to a chosen degree out of one model file (docs/models.md).

`deep` makes a target that costs K times as much, `skip` a draft that costs less; both say how often the cheaper of the
two chooses the token that the other has chosen, on text that the other writes itself. Started by scripts/make-pair.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from mpispec.bench.errors import BenchError
from mpispec.models import cut, default, registry, token_lists
from research import llama_quantise
from research.agreement import Agreement, measure
from research.arrange import Layer, arrange
from research.llama_quantise import KINDS
from research.pad import pad
from research.skipping import kept_layers
from research.texts import CALIBRATION, QUESTIONS, answers
from research.widen import widen

CALIBRATION_TOKENS = 40

_model = click.option("--model", metavar="MODEL", help="Model to start from; the default model without it.")
_out = click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Where to write [default: cache].")
_tokens = click.option("--tokens", type=click.IntRange(min=1), default=64, show_default=True, help="Most of an answer.")
_threads = click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a sentence.")


@click.group()
def main() -> None:
    """Make benchmark pairs of models and measure how often they agree."""


@main.command()
@click.option("--factor", type=click.IntRange(min=2), required=True, metavar="K", help="Times as many layers.")
@click.option("--noise", type=float, required=True, metavar="S", help="Size of what the added layers add; 0: nothing.")
@click.option("--at-end", is_flag=True, help="Add them after the last layer, so that an exit there agrees.")
@_model
@_out
@_tokens
@_threads
@_json
def deep(
    factor: int,
    noise: float,
    at_end: bool,
    model: str | None,
    out: Path | None,
    tokens: int,
    threads: int,
    as_json: bool,
) -> None:
    """Make a target K times as deep as MODEL, which is its draft.

    Each layer is followed by K - 1 echoes of it that cost as much and add noise: S times what the layer adds, over all
    echoes together. The target is synthetic: it costs more and is no better.
    """
    if not 0 <= noise <= 1 or math.isnan(noise):
        raise BenchError(f"--noise {noise} is no share; choose 0 (the same text) to 1 (noise as large as the signal).")
    source = default.resolve(model)
    target = _destination(out, source, f"deep{factor}-noise{noise:g}" + ("-at-end" if at_end else ""))
    layers = deep_layers(registry.inspect(source).layers, factor, noise, at_end)
    name = registry.inspect(source).name
    arrange(source, layers, target, f"{name}, synthetically {factor} times as deep, noise {noise:g}")
    found = measure(source, answers(target, QUESTIONS, tokens, threads), threads)
    _report(found, {"target": str(target), "draft": str(source), "factor": factor, "noise": noise}, as_json)


def deep_layers(count: int, factor: int, noise: float, at_end: bool) -> list[Layer]:
    """Return the layers of a deep target."""
    # Echoes are shuffled independently of each other, so their sizes add up like the sides of a right angle.
    echo = noise / math.sqrt(factor - 1)
    originals = [Layer(index) for index in range(count)]
    echoes = [[Layer(index, echo)] * (factor - 1) for index in range(count)]
    if at_end:
        return originals + [each for several in echoes for each in several]
    return [each for one, several in zip(originals, echoes, strict=True) for each in (one, *several)]


@main.command()
@click.option("--keep", type=click.IntRange(min=2), required=True, metavar="N", help="Layers to keep.")
@_model
@_out
@_tokens
@_threads
@_json
def skip(keep: int, model: str | None, out: Path | None, tokens: int, threads: int, as_json: bool) -> None:
    """Make a draft of N layers of MODEL, which is its target.

    Left out are the layers without which the model agrees most with itself, one after the other.
    """
    source = default.resolve(model)
    summary = registry.inspect(source)
    if keep >= summary.layers:
        raise BenchError(f"{source} has {summary.layers} layers; keep fewer than these to make it cheaper.")
    draft = _destination(out, source, f"skip{keep}")
    calibration = answers(source, CALIBRATION, CALIBRATION_TOKENS, threads)
    kept = kept_layers(source, keep, calibration, threads)
    arrange(source, [Layer(index) for index in kept], draft, f"{summary.name}, {keep} of {summary.layers} layers")
    found = measure(draft, answers(source, QUESTIONS, tokens, threads), threads)
    _report(found, {"target": str(source), "draft": str(draft), "kept": kept}, as_json)


@main.command()
@_model
@_out
@_json
def floats(model: str | None, out: Path | None, as_json: bool) -> None:
    """Make a copy of MODEL whose numbers are all float32, to separate what quantisation does from all else."""
    source = default.resolve(model)
    copy = _destination(out, source, "floats")
    widen(source, copy, f"{registry.inspect(source).name}, widened to float32")
    click.echo(json.dumps({"source": str(source), "copy": str(copy)}) if as_json else f"--model {copy}")


@main.command("pad")
@_model
@_out
@_json
def pad_model(model: str | None, out: Path | None, as_json: bool) -> None:
    """Make a float32 copy of MODEL whose rows are padded to multiples of 256 numbers, as K-quants need them."""
    source = default.resolve(model)
    copy = _destination(out, source, "padded")
    with TemporaryDirectory(dir=copy.parent) as folder:
        floats = Path(folder, "floats.gguf")
        widen(source, floats, "float32")
        pad(floats, copy, f"{registry.inspect(source).name}, widened to float32 and padded")
    click.echo(json.dumps({"source": str(source), "copy": str(copy)}) if as_json else f"--model {copy}")


@main.command()
@click.option("--to", "kind", type=click.Choice(list(KINDS)), required=True, help="What to store all matrices as.")
@_model
@_out
@_tokens
@_threads
@_json
def quantise(kind: str, model: str | None, out: Path | None, tokens: int, threads: int, as_json: bool) -> None:
    """Make a copy of MODEL in another quantisation: a draft that keeps pace, where that is the faster one."""
    source = default.resolve(model)
    copy = _destination(out, source, kind)
    llama_quantise.quantise(source, copy, kind, threads)
    found = measure(copy, answers(source, QUESTIONS, tokens, threads), threads)
    _report(found, {"target": str(source), "draft": str(copy)}, as_json)


@main.command("measure")
@click.option("--target", metavar="MODEL", required=True)
@click.option("--draft", metavar="MODEL", required=True)
@_tokens
@_threads
@_json
def measure_pair(target: str, draft: str, tokens: int, threads: int, as_json: bool) -> None:
    """Measure how often DRAFT chooses TARGET's token."""
    first, second = default.resolve(target), default.resolve(draft)
    if not token_lists.num_shared_tokens(registry.inspect(first), registry.inspect(second)):
        raise BenchError(f"{second} has another vocabulary than {first}; choose two models of one family.")
    found = measure(second, answers(first, QUESTIONS, tokens, threads), threads)
    _report(found, {"target": str(first), "draft": str(second)}, as_json)


def _destination(out: Path | None, source: Path, what: str) -> Path:
    if out is not None:
        if out.expanduser().resolve() == source.resolve():
            raise BenchError(f"--out {out} is the model itself; name another file.")
        return out.expanduser()
    folder = cut.cache_folder("pairs")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise BenchError(f"Cannot make the folder {folder}: {reason}; name a file with --out.") from None
    return folder / f"{source.stem}-{what}.gguf"


def _report(found: Agreement, pair: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({**pair, "agreement": found.figures()}))
        return
    click.echo(f"--model {pair['target']}\n--draft {pair['draft']}")
    click.echo(found.sentence("The draft", "the target"))
