"""Several requests at once, each with cells of its own, have the texts that they have alone (ADR 0036).

On a toy whose bits depend on the order of cells, as llama.cpp's do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from mpispec.compute.base import ComputeError
from mpispec.core import own_caches
from mpispec.core.cache_operations import CacheOperations
from mpispec.core.lanes import Lane, Lanes
from mpispec.core.own_caches import OwnCaches
from mpispec.core.traits import Prefill
from tests.protocol.playing import Breach
from tests.protocol.scenario import STRATEGIES, Scenario, draw, play

pytestmark = pytest.mark.protocol

SEEDS = range(60_000, 60_100)


def crowded(seeds: Sequence[int], strategy: str) -> list[Scenario]:
    """Return situations in which several requests are open at once, some of which are withdrawn."""
    drawn = [draw(seed, strategies=[strategy]) for seed in seeds]
    return [replace(each, parallel=2 + each.seed % 3, has_own_cells=True) for each in drawn if len(each.prompts) > 1]


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_each_request_has_its_text_whatever_the_others_do(strategy: str) -> None:
    scenarios = crowded(SEEDS, strategy)
    assert len(scenarios) > len(SEEDS) / 2
    for scenario in scenarios:
        play(scenario)


@pytest.mark.parametrize("strategy", ["plain", "pipeinfer", "specpipe"])
def test_requests_that_share_cells_change_each_others_texts(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test above demands does not come by itself."""

    def shared(sequences: int, max_active: int, prefill: Prefill, _: object) -> CacheOperations:
        return CacheOperations(sequences, max_active, prefill)

    monkeypatch.setattr(own_caches, "OwnCaches", shared)
    monkeypatch.setattr(Lanes, "check", lambda _: None)  # which notices that both lanes write the cells that are shared
    with pytest.raises(AssertionError, match=r"seed \d+, request \d"):
        for scenario in crowded(SEEDS, strategy):
            play(scenario)


def prompts_are_read_while_others_write_their_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lane, "writes", lambda self, seq: False)


def operations_go_with_runs_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    take = OwnCaches.take
    monkeypatch.setattr(OwnCaches, "take", lambda self, seq=None: take(self))


@pytest.mark.parametrize("breach", [prompts_are_read_while_others_write_their_cells, operations_go_with_runs_of_others])
def test_what_is_out_of_order_on_two_ways_is_noticed(breach: Breach, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some leave runs in flight that the head does not look for, hence a KeyError."""
    breach(monkeypatch)
    with pytest.raises((AssertionError, ComputeError, KeyError)):
        for scenario in crowded(SEEDS, "pipeinfer"):
            play(scenario)
