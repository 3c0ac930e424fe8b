"""A load is drawn from its seed, and its figures are those of the definitions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mpispec.core.messages import Row, Run
from mpispec.core.statistics import RunCounts, Statistics
from mpispec.load import Load, Outcome, Planned, Served, fairness, figures, planned, work

pytestmark = pytest.mark.unit

LOAD = Load(2000, prompt=(5, 9), answer=(1, 40), rate=4.0, cancel_share=0.25, seed=7)


def served(asked: float, times: list[float], ended: float, num_tokens: int, outcome: Outcome = "ok") -> Served:
    return Served(Planned(0, asked, 3, 9, None), asked, times, num_tokens, ended, outcome, prompt_tokens=3)


def test_a_seed_draws_the_same_requests() -> None:
    assert planned(LOAD) == planned(LOAD)
    assert planned(LOAD) != planned(replace(LOAD, seed=8))


def test_arrivals_are_as_many_a_second_as_asked_for() -> None:
    arrivals = [each.arrival_s for each in planned(LOAD)]
    assert arrivals[0] == 0.0 and arrivals == sorted(arrivals)
    assert len(arrivals) / arrivals[-1] == pytest.approx(4.0, rel=0.05)


def test_in_a_closed_loop_nothing_arrives_by_itself() -> None:
    assert {each.arrival_s for each in planned(replace(LOAD, rate=None))} == {0.0}


def test_lengths_fill_their_ranges() -> None:
    plans = planned(LOAD)
    assert {each.prompt for each in plans} == set(range(5, 10))
    assert {each.answer for each in plans} == set(range(1, 41))


def test_some_clients_hang_up_before_the_end() -> None:
    cancelled = [each for each in planned(LOAD) if each.cancel_after is not None]
    assert len(cancelled) / 2000 == pytest.approx(0.25, abs=0.03)
    assert all(each.cancel_after is not None and 1 <= each.cancel_after < each.answer for each in cancelled)


def test_cancels_change_no_arrivals_and_no_lengths() -> None:
    without = planned(replace(LOAD, cancel_share=0.0))
    assert without == [replace(each, cancel_after=None) for each in planned(LOAD)]


def test_tokens_that_came_together_have_no_gap() -> None:
    assert served(0.0, [1.0, 1.5, 3.0], 3.0, num_tokens=5).gaps() == [0.5, 1.5, 0.0, 0.0]
    assert served(0.0, [], 3.0, num_tokens=1).gaps() == []


def test_figures_follow_their_definitions() -> None:
    found = figures(
        [
            served(0.0, [1.0, 1.1, 1.2], 1.2, 3),
            served(1.0, [3.0, 3.3], 4.0, 2, "cancelled"),
            served(2.0, [2.5], 5.0, 0, "failed"),
        ]
    )
    assert found["requests"] == {"ok": 1, "cancelled": 1, "failed": 1}
    assert found["seconds"] == 5.0
    assert (found["tokens"], found["tokens_per_s"], found["requests_per_s"]) == (5, 1.0, 0.2)
    assert found["prompt_tokens"] == 6
    assert found["ttft_s"] == {"p50": 1.5, "p95": 1.95, "p99": 1.99, "most": 2.0}
    assert found["itl_ms"]["p50"] == pytest.approx(100.0)
    assert found["itl_ms"]["most"] == pytest.approx(300.0)
    assert found["tpot_ms"]["p50"] == pytest.approx(200.0)
    assert found["latency_s"]["p50"] == 1.2


def test_nothing_has_no_figures() -> None:
    found = figures([])
    assert found["requests"] == {"ok": 0, "cancelled": 0, "failed": 0}
    assert {found[name] for name in ("tokens_per_s", "ttft_s", "itl_ms", "tpot_ms", "latency_s", "fairness")} == {None}


@pytest.mark.parametrize(("rates", "index"), [([2.0, 2.0, 2.0], 1.0), ([5.0, 0.0, 0.0, 0.0], 0.25), ([1.0, 3.0], 0.8)])
def test_fairness_is_the_index_of_jain(rates: list[float], index: float) -> None:
    assert fairness(rates) == index


def test_runs_are_counted_with_their_rows() -> None:
    counts = RunCounts()
    for decide in ((False, False, False), (False, True), (True, True, True, True)):
        counts.count(Run(0, tuple(Row(0, pos, pos - 1, 1, pos, 0, each) for pos, each in enumerate(decide))))
    found = work(counts, Statistics(accepted=3, verified=4), {"stage 1": 1.5, "draft": 0.5}, 2.0)
    assert (found["runs"], found["rows_per_run"], found["deciding_rows_per_run"]) == (3, 3.0, 2.5)
    assert found["acceptance_rate"] == 0.75
    assert found["idle"] == {"stage 1": 0.25, "draft": 0.75}
