"""The benchmarks' arithmetic, and that a hop's measurement runs on real parts."""

from __future__ import annotations

import os
import statistics

import numpy as np
import pytest

from mpispec.bench.hop import ANSWER, ROW_WIDTH, Passing, measure, report
from mpispec.bench.laps import PARTS, Laps
from mpispec.core.messages import Row, Run
from mpispec.runtime.group import Group
from mpispec.transport.loopback import LoopbackTransport
from research.idle import cpu_seconds
from research.profile import Spent, lines

pytestmark = pytest.mark.unit

RUN = Run(0, [Row(0, pos, pos - 1, 5 + pos, pos, 0, True) for pos in range(3)])


def test_the_passing_stage_has_rows_of_the_stated_width() -> None:
    embedded = Passing(is_last=False).forward(RUN, None, bool)
    assert embedded is not None and embedded.shape == (3, ROW_WIDTH) and embedded.dtype == np.float32
    passed = Passing(is_last=False).forward(RUN, embedded, bool)
    assert passed is embedded


def test_a_measurement_counts_the_gaps_inside_requests() -> None:
    measured = measure(Group(LoopbackTransport()), 5, None)
    assert len(measured.gaps) == 5 * (ANSWER - 1)
    assert min(measured.gaps) > 0
    assert measured.parts == {}


def test_laps_count_each_moment_once() -> None:
    laps = Laps()
    for _ in range(3):
        laps.received()
        for part in PARTS[1:]:
            laps.lap(part)
    medians = laps.medians()
    assert set(medians) == set(PARTS)
    assert all(seconds >= 0 for seconds in medians.values())


def test_trips_without_a_compute_are_not_counted() -> None:
    laps = Laps()
    for _ in range(5):
        laps.received()
        laps.lap("decode")
    assert laps.medians() == dict.fromkeys(PARTS, 0.0)


def test_a_hop_is_a_rank_s_share_of_a_trip() -> None:
    gaps = [index * 1e-6 for index in range(1, 401)]
    figures = report(4, gaps, [dict.fromkeys(PARTS, 8e-6)] * 4)
    assert figures["hop_us"]["p50"] == 50.0
    assert figures["hop_us"]["p95"] == 95.0
    assert statistics.median(figures["hop_us"]["p50_of_blocks"]) == pytest.approx(50.0, abs=3)
    assert figures["parts_us"] == dict.fromkeys(PARTS, 8.0)


def test_cpu_time_of_a_process_is_that_of_its_threads() -> None:
    seconds = cpu_seconds(os.getpid())
    assert 0 < seconds < 10 * sum(os.times()[:2])


def test_a_profile_counts_shares_of_the_time_awake() -> None:
    functions = [
        Spent("<built-in method select.select>", 10, 8.0),
        Spent("a.py:1 slow", 3, 1.5),
        Spent("b.py:2 f", 2, 0.5),
    ]
    title, first, second = lines("rank 1", functions)
    assert title == "rank 1: awake 2.000 s, asleep 8.000 s"
    assert "75.0%" in first and "slow" in first
    assert "25.0%" in second and "250000.0 us each" in second
