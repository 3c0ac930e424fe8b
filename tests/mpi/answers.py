"""A job that answers a list of requests: `mpirun -np N python -m tests.mpi.answers REQUESTS.json ANSWERS.json`.

One start of the ranks and one loading of the model serve all requests, which is what makes comparing thousands of
tokens affordable. REQUESTS holds the job's options, the requests, and how many of them may be open at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import psutil

from mpispec.core.messages import Sampling, Score
from mpispec.runtime.engine import Engine, Generation, Progress
from mpispec.runtime.group import Group
from mpispec.runtime.job import FrontEnd, JobOptions, Setup, run_job


class Answer:
    """One request under way."""

    def __init__(self, engine: Engine, wanted: dict[str, Any], hear: Callable[[Progress], None]) -> None:
        self._engine = engine
        self._patience = wanted.get("patience")
        """Tokens after which the client hangs up."""
        sampling = _sampling(wanted.get("sampling", {}))
        if (text := wanted.get("grammar")) is not None:
            sampling = replace(sampling, grammar=text)
        self._tokens: list[int] = []
        self._scores: list[Score] = []
        self._finish: str | None = None
        generation = Generation(
            tuple(wanted["prompt"]),
            wanted["max_tokens"],
            sampling,
            wanted["strategy"],
            wanted["drafter"],
        )
        self._request = engine.submit(generation, hear)

    def take(self, progress: Progress) -> bool:
        """Take what has become final; return whether that is the end."""
        self._tokens += progress.tokens
        self._scores += progress.scores
        self._finish = progress.finish
        if self._finish is None and self._patience is not None and len(self._tokens) >= self._patience:
            self._engine.withdraw(self._request)
            self._patience = None
        return self._finish is not None

    def result(self) -> dict[str, Any]:
        """Return the tokens and their scores, why it ended, and the engine's report."""
        report = self._engine.report(self._request)
        return {"tokens": self._tokens, "scores": self._scores, "finish": self._finish, "report": report}


def _sampling(wanted: dict[str, Any]) -> Sampling:
    """Return the sampling parameters that a file names; JSON has lists for tuples."""
    biases = tuple((token, bias) for token, bias in wanted.get("logit_bias", ()))
    return Sampling(**{**wanted, "logit_bias": biases})


def answer_all(engine: Engine, requests: list[dict[str, Any]], at_once: int) -> list[dict[str, Any]]:
    """Return the answers in order.

    No more than `at_once` are open. A request that `arrives` waits until so many tokens of all have been written, or
    none is open: a clock that runs alike on every machine.
    """
    inbox: SimpleQueue[tuple[int, Progress]] = SimpleQueue()
    ranks = (psutil.Process().parent() or psutil.Process()).children()
    begun: list[Answer] = []
    ended: dict[int, dict[str, Any]] = {}
    num_written = 0
    while len(ended) < len(requests):
        num_open = len(begun) - len(ended)
        if len(begun) < len(requests) and num_open < at_once:
            wanted = requests[len(begun)]
            if not num_open or num_written >= wanted.get("arrives", 0):
                number = len(begun)
                begun.append(Answer(engine, wanted, lambda progress, number=number: inbox.put((number, progress))))
                continue
        number, progress = inbox.get()
        num_written += len(progress.tokens)
        if begun[number].take(progress):
            ended[number] = {**begun[number].result(), "rss": [rank.memory_info().rss for rank in ranks]}
    return [ended[number] for number in range(len(requests))]


class Answers(FrontEnd[list[dict[str, Any]]]):
    """Answers the requests of a file."""

    def __init__(self, wanted: dict[str, Any]) -> None:
        self._wanted = wanted

    def options(self) -> JobOptions:
        return JobOptions(**self._wanted["options"])

    def open(self, group: Group, setup: Setup) -> frozenset[int]:
        return frozenset(self._wanted["stops"])

    def serve(self, engine: Engine) -> list[dict[str, Any]]:
        return answer_all(engine, self._wanted["requests"], self._wanted.get("at_once", 1))


def main() -> None:
    outcome = run_job(Answers(json.loads(Path(sys.argv[1]).read_text())))
    if outcome is not None:
        Path(sys.argv[2]).write_text(json.dumps(outcome.value))


if __name__ == "__main__":
    main()
