"""What a run of several rows costs on a real range of layers: t(rows), which decides whether width pays."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import click
import numpy as np

from mpispec.bench.facts import host_facts
from mpispec.bench.printing import json_flag, show
from mpispec.commands.flags import gpu_layers_flag, torch_flags, with_flags
from mpispec.commands.tables import table
from mpispec.compute.base import Floats, StageModel, StageSize, TorchOptions
from mpispec.compute.factory import backend_of
from mpispec.compute.llama_backend import finds_gpu
from mpispec.core.ids import Pos, SeqId
from mpispec.core.messages import CacheOp, CacheOpKind
from mpispec.models import default, registry
from mpispec.models.errors import ModelError
from mpispec.models.registry import ModelSummary
from mpispec.runtime.gpus import no_gpu
from mpispec.runtime.trial import row_of, timed, trial

MOST_ROWS = 512
REQUESTS = ("one", "shared", "own")
"""Whose the rows of a run are: of one request, or of one each, which share cells or have their own."""
_WARM_UP = 2
"""Turns that are not counted."""
_CHUNK = 32
"""Rows of the runs that fill the cache."""
_STAGES = 4
"""Without --layers the second of this many ranges is taken: one that neither embeds nor decides."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is measured."""

    rows: tuple[int, ...]
    past: int
    """Cached positions that every row attends to."""
    repeats: int
    threads: int
    torch: TorchOptions = field(default_factory=TorchOptions)
    gpu_layers: int = 0
    """See `StageSize`."""
    requests: str = "one"
    """One of `REQUESTS`."""

    @property
    def most(self) -> int:
        """Rows of the largest run."""
        return self.rows[-1]


def read_rows(text: str) -> tuple[int, ...]:
    """Return the row counts of `1,2,4`, 1 always among them. Raises ModelError."""
    if not re.fullmatch(r"\d{1,3}(,\d{1,3})*", text):
        raise ModelError(f"--rows {text!r} is no list of numbers of rows; write it as 1,2,4,8.")
    rows = sorted({1, *map(int, text.split(","))})
    if not 1 <= rows[0] <= rows[-1] <= MOST_ROWS:
        raise ModelError(f"--rows goes from {rows[0]} to {rows[-1]}; choose numbers from 1 to {MOST_ROWS}.")
    return tuple(rows)


def read_layers(text: str | None, model: ModelSummary) -> range:
    """Return the layers of `A-B`, both inclusive; without a text a quarter from the middle. Raises ModelError."""
    if text is None:
        pieces = min(_STAGES, -(-model.layers // model.unit))
        return registry.ranges(model.layers, pieces, model.unit, model.head_layers)[min(1, pieces - 1)]
    found = re.fullmatch(r"(\d{1,3})-(\d{1,3})", text)
    if found is None or not int(found[1]) <= int(found[2]) < model.layers:
        last = model.layers - 1
        raise ModelError(f"--layers {text!r} is no range of layers; write the first and the last, within 0-{last}.")
    return range(int(found[1]), int(found[2]) + 1)


def measure(model: ModelSummary, layers: range, load: Load, insist: bool) -> dict[int, list[float]]:
    """Return the seconds of every run, by rows, the sizes measured in turns. Raises ModelError, ComputeError."""
    each = load.past + (load.most if load.requests == "one" else 1)
    size = StageSize(
        context=each * (load.most if load.requests == "shared" else 1),
        sequences=load.most if load.requests == "shared" else 1,
        contexts=load.most if load.requests == "own" else 1,
        threads=load.threads,
        most_rows=max(load.most, _CHUNK),
        torch=load.torch,
        gpu_layers=load.gpu_layers,
    )
    backend = backend_of(model.path)
    if load.gpu_layers and not (backend.name == "llama" and finds_gpu()):
        raise ModelError(no_gpu("here" if backend.name == "llama" else "on any rank that it computes on"))
    stage = backend.open_stage(model, layers, size, insist=insist)
    try:
        return _in_turns(stage, None if layers.start == 0 else model.width, load)
    finally:
        stage.close()


def _in_turns(stage: StageModel, width: int | None, load: Load) -> dict[int, list[float]]:
    """Return the seconds by rows; `width` is None for a stage that takes tokens."""
    noise = np.random.default_rng(0)

    def activations(size: int) -> Floats | None:
        return None if width is None else noise.standard_normal((size, width), np.float32)

    for seq in range(1 if load.requests == "one" else load.most):
        for start in range(0, load.past, _CHUNK):
            rows = [row_of(seq, pos) for pos in range(start, min(start + _CHUNK, load.past))]
            timed(stage, rows, activations(len(rows)))
    found: dict[int, list[float]] = {size: [] for size in load.rows}
    for turn in range(_WARM_UP + load.repeats):
        for size, seconds in found.items():
            spent = _spent(stage, load, activations(size), size)
            if turn >= _WARM_UP:
                seconds.append(spent)
    return found


def _spent(stage: StageModel, load: Load, activations: Floats | None, size: int) -> float:
    """Return the seconds of a run of `size` rows, which leaves no cells."""
    if load.requests == "one":
        return trial(stage, size, activations, load.past).seconds
    seconds = timed(stage, [row_of(seq, load.past) for seq in range(size)], activations).seconds
    stage.apply([CacheOp(CacheOpKind.DROP, SeqId(seq), SeqId(seq), Pos(load.past), -1) for seq in range(size)])
    return seconds


def report(seconds: Mapping[int, Sequence[float]]) -> list[dict[str, Any]]:
    """Return for each number of rows the median, the spread and the ratio to one row, pair by pair.

    `of_least` is the ratio of the shortest times: what disturbs a run only ever makes it longer.
    """
    found = []
    for size, times in seconds.items():
        ratios = [time / one for time, one in zip(times, seconds[1], strict=True)]
        found.append(
            {
                "rows": size,
                "ms": {"p50": _ms(statistics.median(times)), "least": _ms(min(times)), "most": _ms(max(times))},
                "ratio": {
                    "p50": round(statistics.median(ratios), 3),
                    "least": round(min(ratios), 3),
                    "most": round(max(ratios), 3),
                    "of_least": round(min(times) / min(seconds[1]), 3),
                },
            }
        )
    return found


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 4)


def lines(found: dict[str, Any]) -> list[str]:
    """Return the figures for people."""
    first, last = found["layers"]
    title = f"{found['model']}: layers {first}-{last} after {found['past']} positions, {found['threads']} threads"
    title += "" if found["requests"] == "one" else f", rows of a request each ({found['requests']} cells)"
    rows = [("rows", "median", "spread", "t(rows)/t(1)", "of the least")]
    for each in found["runs"]:
        ms, ratio = each["ms"], each["ratio"]
        rows.append(
            (
                str(each["rows"]),
                f"{ms['p50']:.2f} ms",
                f"{ms['least']:.2f} to {ms['most']:.2f}",
                f"{ratio['p50']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f})",
                f"{ratio['of_least']:.2f}",
            )
        )
    return [title, *table(rows)]


def _backend_flags(command: Callable[..., None]) -> Callable[..., None]:
    return with_flags(command, gpu_layers_flag(), *torch_flags())


@click.command()
@click.option("--model", metavar="MODEL", help="As for `generate`; default: SmolLM2-135M-Instruct.")
@click.option("--layers", "layer_range", metavar="A-B", help="First and last layer; default: a quarter in the middle.")
@click.option("--rows", default="1,2,3,4,6,8,16,32", show_default=True, metavar="1,2,...", help="Sizes of a run.")
@click.option("--past", type=click.IntRange(0, 65536), default=0, show_default=True, help="Cached positions.")
@click.option("--repeats", type=click.IntRange(min=3), default=15, show_default=True, help="Runs of each size.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option(
    "--requests",
    type=click.Choice(REQUESTS),
    default="one",
    show_default=True,
    help="Whose the rows are: of one request, or of one each with shared or with own cells.",
)
@_backend_flags
@click.option("--insist", is_flag=True, help="Cut a model whose layer ranges are not certified.")
@json_flag
def stage(model: str | None, layer_range: str | None, rows: str, insist: bool, is_json: bool, **asked: Any) -> None:
    """What runs of several rows cost on some layers.

    One process, no mpirun. The layers are cut out of the model as `generate` would cut them. The sizes are measured in
    turns, and every run is compared with the one-row run of its own turn.
    """
    hosts = [host_facts()]
    chosen = TorchOptions(**{each.name: asked[each.name] for each in fields(TorchOptions)})
    path = default.resolve(model, chosen.runs_code)
    summary = backend_of(path).inspect(path)
    layers = read_layers(layer_range, summary)
    others = {name: value for name, value in asked.items() if not hasattr(chosen, name)}
    seconds = measure(summary, layers, Load(read_rows(rows), torch=chosen, **others), insist)
    found = {
        "model": summary.path.name,
        "layers": [layers.start, layers.stop - 1],
        **asked,
        "runs": report(seconds),
        "hosts": hosts,
    }
    show(found, lines(found), is_json)
