"""Start a job of `tests.mpi.answers` and read its answers."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.launch import run_ranks

Request = dict[str, Any]
WITHOUT_DRAFT = (("plain", "none"), ("sync", "ngram"), ("pipeinfer", "ngram"), ("auto", "ngram"))
WITH_EXITS = (("speed", "exit"), ("pipeinfer", "exit"))
WITH_DRAFT = (("sync", "draft"), ("pipeinfer", "draft"), ("auto", "draft"), ("auto", "draft+ngram"))
TREES = (("synctree", "draft"), ("specpipe", "draft"), ("pipedec", "draft"))


def request(prompt: Sequence[int], max_tokens: int, strategy: str, drafter: str, **sampling: Any) -> Request:
    """Make one request of `tests.mpi.answers`."""
    return {
        "prompt": list(prompt),
        "max_tokens": max_tokens,
        "strategy": strategy,
        "drafter": drafter,
        "sampling": sampling,
    }


def answers(
    n: int,
    requests: Iterable[Request],
    stops: Iterable[int] = (),
    at_once: int = 1,
    timeout: float = 250.0,
    **options: Any,
) -> list[dict[str, Any]]:
    """Return the answers of one job of `n` ranks with these `JobOptions`, in the order of the requests.

    One thread a compute: with more, ggml's threads spin on each other whenever something else takes a core. N-grams
    draft from each answer alone: a prompt is asked several times, and rejections are what is wanted.
    """
    options = {"threads": 1, "ngram_tokens": 0, **options}
    wanted = {"requests": list(requests), "stops": sorted(stops), "at_once": at_once, "options": options}
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "requests.json"), Path(folder, "answers.json")
        asked.write_text(json.dumps(wanted))
        argv = [sys.executable, "-m", "tests.mpi.answers", str(asked), str(answered)]
        job = run_ranks(n, argv, timeout)
        assert job.returncode == 0, job.stderr
        found: list[dict[str, Any]] = json.loads(answered.read_text())
    return found


def tokens_of(found: Iterable[dict[str, Any]]) -> list[list[int]]:
    """Return the tokens of each answer."""
    return [answer["tokens"] for answer in found]
