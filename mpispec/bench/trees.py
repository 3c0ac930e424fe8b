"""How often a strategy's texts are those of the model alone, on the ranks that mpirun started.

Trees may part from the plain text on quantised weights; here they do or do not, and by how much, prompt by prompt.
Started by scripts/tree-divergence.
"""

from __future__ import annotations

import json
import statistics
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import click

from mpispec.bench.divergence import Divergence, Reference, compare, references, typical_gap
from mpispec.bench.prompts import PROMPTS
from mpispec.compute.llama_vocabulary import Vocabulary
from mpispec.models import default
from mpispec.models.errors import ModelError
from mpispec.runtime.engine import Engine, Generation, Progress
from mpispec.runtime.group import Group, JobError
from mpispec.runtime.job import JobOptions, Session, prepare, run
from mpispec.strategies import PRESETS
from mpispec.transport.base import TransportError
from mpispec.transport.environment import launched_rank

_FAILURE = 1


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be written."""

    prompts: tuple[tuple[int, ...], ...]
    strategies: tuple[str, ...]
    num_tokens: int


Texts = Mapping[str, Sequence[Sequence[int]]]
"""By strategy the answer to each prompt."""


def write(engine: Engine, task: Task) -> Texts:
    """Have every prompt answered with every strategy, one at a time."""
    texts: dict[str, list[list[int]]] = {}
    for strategy in task.strategies:
        texts[strategy] = [_answer(engine, Generation(prompt, task.num_tokens), strategy) for prompt in task.prompts]
        sys.stderr.write(f"{strategy}: {len(task.prompts)} answers\n")
    return texts


def _answer(engine: Engine, wanted: Generation, strategy: str) -> list[int]:
    inbox: SimpleQueue[Progress] = SimpleQueue()
    engine.submit(Generation(wanted.prompt, wanted.max_tokens, strategy=strategy), inbox.put)
    tokens: list[int] = []
    finish = None
    while finish is None:
        progress = inbox.get()
        tokens += progress.tokens
        finish = progress.finish
    return tokens


def texts_of_job(group: Group, options: JobOptions, task: Task, stops: frozenset[int]) -> Texts | None:
    """Run a job; return what rank 0 wrote, None on other ranks. Collective. Raises JobError."""
    setup = prepare(options, group)

    def application(session: Session) -> Texts:
        return write(session.engine, task)

    outcome = run(options, group, setup, stops, application, lambda what: None)
    return outcome.value if outcome is not None else None


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
    """Compare the texts of strategies with what the model writes alone, and tell how close its decisions were."""
    from mpispec.transport.mpi import connect  # noqa: PLC0415  the rest of this module needs no MPI

    group = Group(connect())
    # One thread a compute: with more, attention is summed in as many pieces (docs: Exactness).
    options = JobOptions(model=model, draft=draft, threads=1)
    try:
        task, stops = _task(options, tuple(strategies.split(",")), tokens, prompts)
        texts = texts_of_job(group, options, task, stops)
    except (JobError, ModelError) as error:
        group.close()
        sys.exit(f"mpispec: {error}" if group.rank == 0 else 2)
    except BaseException as error:
        traceback.print_exception(error)
        group.abort(_FAILURE)
    group.close()
    if texts is not None:
        expected = references(default.resolve(model), task.prompts, tokens, stops)
        _tell(group.size, options, texts, expected, as_json)


def _task(
    options: JobOptions, strategies: tuple[str, ...], num_tokens: int, num_prompts: int
) -> tuple[Task, frozenset[int]]:
    """Return what is to be written, and the tokens that end an answer. Raises JobError, ModelError."""
    if unknown := [name for name in strategies if name not in PRESETS]:
        raise JobError(f"There is no strategy {unknown[0]!r}; choose of {', '.join(PRESETS)}.")
    vocabulary = Vocabulary(default.resolve(options.model))
    try:
        prompts = tuple(tuple(vocabulary.tokenize(text, special=True)) for text in PROMPTS[:num_prompts])
        return Task(prompts, strategies, num_tokens), vocabulary.eog
    finally:
        vocabulary.close()


def _tell(num_ranks: int, options: JobOptions, texts: Texts, expected: Sequence[Reference], as_json: bool) -> None:
    found = {strategy: compare(answers, expected) for strategy, answers in texts.items()}
    typical = typical_gap(expected)
    if as_json:
        click.echo(json.dumps(figures(num_ranks, options, found, typical)))
    else:
        click.echo(table(found, typical))


if __name__ == "__main__":
    try:
        main()
    except TransportError as error:
        sys.exit(f"mpispec: {error}" if launched_rank() == 0 else 2)
