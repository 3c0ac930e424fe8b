"""How often a strategy's texts are those of the model alone, on the ranks that mpirun started.

Trees may part from the plain text on quantised weights; here they do or do not, and by how much, prompt by prompt.
Started by scripts/tree-divergence.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import click

from mpispec.commands.prompt import stops_of, target_vocabulary
from mpispec.models import default
from mpispec.runtime.engine import Engine, Generation
from mpispec.runtime.group import Group, JobError, on_rank_0
from mpispec.runtime.job import FrontEnd, JobOptions, Setup, run_job
from mpispec.serve.text.completion import written
from mpispec.serve.text.vocabulary import Vocabulary
from mpispec.strategies import PRESETS
from research.divergence import Divergence, Reference, compare, references, typical_gap
from research.prompts import PROMPTS

Answers = Mapping[str, Sequence[Sequence[int]]]
"""By strategy the answer to each prompt."""


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be written."""

    prompts: tuple[tuple[int, ...], ...]
    strategies: tuple[str, ...]
    num_tokens: int
    stops: frozenset[int]


def write(engine: Engine, vocabulary: Vocabulary, task: Task) -> Answers:
    """Have every prompt answered with every strategy, one at a time."""
    texts: dict[str, list[Sequence[int]]] = {}
    for strategy in task.strategies:
        wanted = [Generation(prompt, task.num_tokens, strategy=strategy) for prompt in task.prompts]
        texts[strategy] = [written(engine, vocabulary, one).tokens for one in wanted]
        sys.stderr.write(f"{strategy}: {len(task.prompts)} answers\n")
    return texts


class Texts(FrontEnd[Answers]):
    """Has some prompts answered with some strategies."""

    def __init__(self, options: JobOptions, strategies: tuple[str, ...], num_tokens: int, num_prompts: int) -> None:
        self._asked = options
        self._num_prompts = num_prompts
        self._vocabulary: Any = None
        self.task = Task((), strategies, num_tokens, frozenset())

    def options(self) -> JobOptions:
        """See `FrontEnd`."""
        if unknown := [name for name in self.task.strategies if name not in PRESETS]:
            raise JobError(f"There is no strategy {unknown[0]!r}; choose of {', '.join(PRESETS)}.")
        return self._asked

    def open(self, group: Group, setup: Setup) -> frozenset[int]:
        """See `FrontEnd`."""
        vocabulary = self._vocabulary = on_rank_0(group, lambda: target_vocabulary(setup), None)
        texts = PROMPTS[: self._num_prompts] if vocabulary is not None else ()
        prompts = tuple(tuple(vocabulary.tokenize(text, special=True)) for text in texts)
        self.task = replace(self.task, prompts=prompts, stops=stops_of(vocabulary))
        return self.task.stops

    def serve(self, engine: Engine) -> Answers:
        """See `FrontEnd`."""
        return write(engine, self._vocabulary, self.task)


def figures(num_ranks: int, options: JobOptions, found: Mapping[str, Divergence], typical: float) -> dict[str, Any]:
    """Return the figures for JSON."""
    return {
        "model": str(default.resolve(options.model)),
        "draft": options.draft,
        "ranks": num_ranks,
        "median_gap": round(typical, 4),
        "strategies": {strategy: divergence.figures() for strategy, divergence in found.items()},
    }


def table(found: Mapping[str, Divergence], typical: float) -> str:
    """Return the figures for people."""
    lines = ["strategy    answers equal  tokens before  first difference at token        gap there"]
    for strategy, one in found.items():
        positions = _spread([difference.position for difference in one.differences], 0)
        gaps = _spread(one.gaps, 3)
        lines.append(f"{strategy:10}  {one.equal:6} of {one.answers:3}  {one.agreement:13.1%}  {positions:28}  {gaps}")
    lines.append(f"All decisions of the reference have a median gap of {typical:.3f} between their two best logits.")
    return "\n".join(lines)


def _spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return "-"
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}, median {statistics.median(values):.{digits}f}"


@click.command()
@click.option("--draft", metavar="MODEL", required=True, help="Draft; scripts/make-pair skip makes one.")
@click.option("--model", metavar="MODEL", help="Target; the default model without it.")
@click.option("--strategy", "strategies", default="specpipe,pipedec,auto", show_default=True, metavar="A,B,...")
@click.option("--tokens", type=click.IntRange(min=1), default=64, show_default=True, help="Most of an answer.")
@click.option("--prompts", type=click.IntRange(1, len(PROMPTS)), default=len(PROMPTS), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def main(draft: str, model: str | None, strategies: str, tokens: int, prompts: int, as_json: bool) -> None:
    """Compare the texts of strategies with what the model writes alone, and say how close its decisions were."""
    # One thread a compute: with more, attention is summed in as many pieces (docs: Exactness).
    options = JobOptions(model=model, draft=draft, threads=1)
    texts = Texts(options, tuple(strategies.split(",")), tokens, prompts)
    outcome = run_job(texts)
    if outcome is not None:
        expected = references(default.resolve(model), texts.task.prompts, tokens, texts.task.stops)
        _show(len(outcome.ranks), options, outcome.value, expected, as_json)


def _show(num_ranks: int, options: JobOptions, texts: Answers, expected: Sequence[Reference], as_json: bool) -> None:
    found = {strategy: compare(answers, expected) for strategy, answers in texts.items()}
    typical = typical_gap(expected)
    if as_json:
        click.echo(json.dumps(figures(num_ranks, options, found, typical)))
    else:
        click.echo(table(found, typical))
