"""A job that answers a list of requests: `mpirun -np N python -m tests.mpi.answers REQUESTS.json ANSWERS.json`.

One start of the ranks and one loading of the model serve all requests, which is what makes comparing thousands of
tokens affordable. REQUESTS holds the job's options, the requests, and how many of them are submitted at once.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import psutil

from mpispec.core.messages import Grammar, Sampling
from mpispec.runtime.engine import Engine, Generation, Progress
from mpispec.runtime.group import Group
from mpispec.runtime.job import FrontEnd, JobOptions, Setup, run_job


class Answer:
    """One request under way."""

    def __init__(self, engine: Engine, wanted: dict[str, Any]) -> None:
        self._engine = engine
        self._inbox: SimpleQueue[Progress] = SimpleQueue()
        self._patience = wanted.get("patience")
        """Tokens after which the client hangs up."""
        sampling = Sampling(**wanted.get("sampling", {}))
        if (text := wanted.get("grammar")) is not None:
            sampling = replace(sampling, grammar=Grammar(text))
        generation = Generation(
            tuple(wanted["prompt"]),
            wanted["max_tokens"],
            sampling,
            wanted["strategy"],
            wanted["drafter"],
        )
        self._request = engine.submit(generation, self._inbox.put)

    def result(self) -> dict[str, Any]:
        """Wait for the end; return the tokens, why it ended, and the engine's report."""
        tokens: list[int] = []
        finish = None
        while finish is None:
            progress = self._inbox.get()
            tokens += progress.tokens
            finish = progress.finish
            if self._patience is not None and len(tokens) >= self._patience:
                self._engine.withdraw(self._request)
                self._patience = None
        report = self._engine.report(self._request)
        return {"tokens": tokens, "finish": finish, "report": report, "rss": psutil.Process().memory_info().rss}


def answer_all(engine: Engine, requests: list[dict[str, Any]], at_once: int) -> list[dict[str, Any]]:
    """Return the answers in order."""
    answers: list[dict[str, Any]] = []
    for start in range(0, len(requests), at_once):
        answers += [one.result() for one in [Answer(engine, each) for each in requests[start : start + at_once]]]
    return answers


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
