"""How many requests at once have a context each where hosts have little memory."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest

from mpispec.compute.host_memory import Room
from mpispec.runtime import context_memory
from mpispec.runtime.context_memory import fitted
from mpispec.runtime.group import JobError
from mpispec.runtime.setup import JobOptions, Setup

pytestmark = pytest.mark.unit

MIB = 1 << 20
Ranks = list[tuple[str, int, int]]
"""By rank its host, the MiB that a request takes there, and the MiB that are available."""


@pytest.fixture
def fit(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, int, int, list[str]]]:
    """Return what finds requests, contexts and cells of a job of four requests, as rank 0 of these ranks sees it."""

    def find(ranks: Ranks, may_shrink: bool = True, contexts: int = 4) -> tuple[int, int, int, list[str]]:
        host, needed, available = ranks[0]
        monkeypatch.setattr(context_memory, "hostname", lambda: host)
        monkeypatch.setattr(context_memory, "host_identity", lambda: host)
        monkeypatch.setattr(context_memory, "room", lambda: Room(available * MIB))
        others = [msgpack.packb([name, name, more * MIB, left * MIB]) for name, more, left in ranks[1:]]
        transport = SimpleNamespace(allgather_bytes=lambda mine, limit: [mine, *others])
        group: Any = SimpleNamespace(rank=0, size=len(ranks), transport=transport)
        setup: Any = Setup(None, None, None, (), (), context=100, contexts=contexts, cells=400)  # type: ignore[arg-type]
        said: list[str] = []
        options = JobOptions(parallel=4, may_shrink=may_shrink)
        options, setup = fitted(options, group, setup, needed * MIB, said.append)
        return options.parallel, setup.contexts, setup.cells, said

    return find


def test_nothing_changes_where_there_is_enough(fit: Callable[..., Any]) -> None:
    assert fit([("a", 100, 340), ("b", 0, 1)]) == (4, 4, 400, [])
    assert fit([("a", 100, 1)], contexts=1) == (4, 1, 400, []), "cells that are shared were all there at the start"


def test_the_scarcest_host_says_how_many_requests_there_are(fit: Callable[..., Any]) -> None:
    parallel, contexts, cells, (said,) = fit([("a", 10, 1000), ("b", 100, 230)])
    assert (parallel, contexts, cells) == (3, 3, 300)
    assert said.startswith("requests at once: 3 instead of 4, for b has 230 MiB left")
    assert "takes 100 MiB" in said


def test_ranks_of_a_host_share_its_memory(fit: Callable[..., Any]) -> None:
    assert fit([("a", 100, 340), ("a", 100, 340)])[:3] == (2, 2, 200)
    assert fit([("a", 100, 340), ("a", 300, 340)])[:3] == (1, 1, 100), "one needs no more than what is loaded"


def test_who_said_how_many_is_told_how_many_fit(fit: Callable[..., Any]) -> None:
    with pytest.raises(JobError, match=r"no memory for 4 requests at once: a has 230 MiB.*--parallel 3, a"):
        fit([("a", 100, 230)], may_shrink=False)
