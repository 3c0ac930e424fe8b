"""How often a layer's own hidden state already chooses the token that the whole model chooses.

After each layer the model's own final norm and projection are applied, which is what an early exit at a stage boundary
would compute (SPEED, arXiv 2310.12072), and the choice is compared with the whole model's on text that it wrote.
Started by scripts/exit-agreement.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from mpispec.bench.errors import BenchError
from mpispec.models import default, registry
from mpispec.sim.costs import exit_speedup
from research.agreement import Agreement, measure
from research.arrange import Layer, arrange
from research.texts import QUESTIONS, Text, answers

WORTHWHILE = 1.1
"""A bound on the speed-up below which the fixed costs of an exit eat the gain."""


@dataclass(frozen=True, slots=True)
class Exit:
    """An exit after some layers."""

    layers: int
    share_of_work: float
    """Work until the exit has chosen, its projection included, over the work of the whole model."""
    agreement: Agreement

    @property
    def bound(self) -> float:
        """Return the speed-up over plain pipelining that this exit cannot exceed."""
        return exit_speedup(self.agreement.share, self.share_of_work)


def exits(model: Path, after: Sequence[int], texts: Sequence[Text], threads: int) -> Iterator[Exit]:
    """Measure an exit after each of these numbers of layers on what the model wrote. Raises ModelError."""
    summary = registry.inspect(model)
    with TemporaryDirectory(prefix="mpispec-exits-") as folder:
        for layers in after:
            path = Path(folder) / "exit.gguf"
            arrange(model, [Layer(index) for index in range(layers)], path, f"{summary.name}, exit after {layers}")
            work = (layers + summary.head_layers) / (summary.layers + summary.head_layers)
            yield Exit(layers, work, measure(path, texts, threads))


def conclusion(found: Sequence[Exit]) -> str:
    """Say in one sentence where an exit pays."""
    best = max(found, key=lambda one: one.bound)
    bound = f"at most {best.bound:.2f} times plain (agreement {best.agreement.share:.1%})"
    if best.bound < WORTHWHILE:
        return f"No exit pays: the best, after layer {best.layers}, gives {bound}."
    return f"The best exit is after layer {best.layers}: {bound}."


@click.command()
@click.option("--model", metavar="MODEL", help="Model to look into; the default model without it.")
@click.option(
    "--step", type=click.IntRange(min=1), default=1, show_default=True, help="Layers from one exit to the next."
)
@click.option("--tokens", type=click.IntRange(min=1), default=48, show_default=True, help="Most of an answer.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def main(model: str | None, step: int, tokens: int, threads: int, as_json: bool) -> None:
    """Measure for each layer how often an exit after it agrees with the whole model."""
    path = default.resolve(model)
    after = range(step, registry.inspect(path).layers, step)
    if not after:
        raise BenchError(f"{path} has {after.stop} layers, so there is no exit every {step}; choose a smaller --step.")
    texts = answers(path, QUESTIONS, tokens, threads)
    found = []
    for one in exits(path, after, texts, threads):
        found.append(one)
        if not as_json:
            click.echo(
                f"layer {one.layers:3}  work {one.share_of_work:6.1%}  agreement {one.agreement.share:6.1%} "
                f"+- {one.agreement.error:.1%}  speed-up at most {one.bound:.2f}"
            )
    if as_json:
        figures = [
            {
                "layers": one.layers,
                "share_of_work": round(one.share_of_work, 4),
                "speedup_bound": round(one.bound, 3),
                **one.agreement.figures(),
            }
            for one in found
        ]
        click.echo(json.dumps({"model": str(path), "exits": figures}))
    else:
        click.echo(conclusion(found))
