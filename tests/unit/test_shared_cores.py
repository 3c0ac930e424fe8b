"""What actors of one host take from each other, from times that are known and from real threads on this machine."""

from __future__ import annotations

import os

import pytest

from mpispec.compute.toy import ToyStage
from mpispec.core.ids import Actor
from mpispec.runtime import shared_cores as module
from mpispec.runtime.group import Group
from mpispec.runtime.shared_cores import Demand, shared_cores, sharing
from mpispec.transport.loopback import LoopbackTransport

pytestmark = pytest.mark.unit

FIRST, SECOND, DRAFT = Actor(1), Actor(2), Actor(3)


def test_a_draft_on_the_core_of_a_stage_takes_all_its_time_from_it() -> None:
    found = sharing({FIRST: 4.0, DRAFT: 1.0}, {FIRST: 4.0}, {FIRST: 8.0, DRAFT: 2.0}, DRAFT)
    assert found == (4.0, 1.0, 1.0, 1.0)


def test_stages_and_a_draft_on_one_core_share_it() -> None:
    alone = {FIRST: 4.0, SECOND: 4.0, DRAFT: 1.0}
    found = sharing(alone, {FIRST: 8.0, SECOND: 8.0}, {FIRST: 12.0, SECOND: 12.0, DRAFT: 3.0}, DRAFT)
    assert found.crowd == 2.0
    assert found.toll_s == pytest.approx(1.0)


def test_a_draft_that_has_half_of_a_core_takes_half_of_its_time() -> None:
    found = sharing({FIRST: 4.0, DRAFT: 1.0}, {FIRST: 4.0}, {FIRST: 6.0, DRAFT: 1.5}, DRAFT)
    assert found.toll_s == pytest.approx(0.5)


def test_what_is_within_the_noise_is_no_sharing() -> None:
    alone = {FIRST: 4.0, SECOND: 4.0, DRAFT: 1.0}
    found = sharing(alone, {FIRST: 4.2, SECOND: 4.3}, {FIRST: 4.4, SECOND: 4.5, DRAFT: 1.1}, DRAFT)
    assert (found.crowd, found.toll_s) == (1.0, 0.0)


def test_what_is_sure_by_count_stands_where_a_measurement_has_missed_it() -> None:
    quiet = {FIRST: 4.0, DRAFT: 1.0}
    assert sharing(quiet, quiet, quiet, DRAFT, [Demand(1, 1, 1)]).toll_s == 1.0
    assert sharing(quiet, quiet, quiet, DRAFT, [Demand(2, 1, 1)]).toll_s == 0.0
    assert sharing(quiet, quiet, quiet, None, [Demand(1, 2, 0)]).crowd == 2.0


def test_an_actor_alone_on_its_host_is_not_measured() -> None:
    stage = ToyStage(0, is_last=True, vocabulary=8)
    assert shared_cores(Group(LoopbackTransport()), {FIRST: stage}, None, width=4, threads=1) is None


def test_stage_and_draft_of_one_core_are_found_to_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    monkeypatch.setattr(module, "_LEAST_S", 0.0)
    stage, draft = (ToyStage(layer, is_last=True, vocabulary=8) for layer in (0, 1))
    found = shared_cores(Group(LoopbackTransport()), {FIRST: stage}, (DRAFT, draft), width=4, threads=1)
    assert found is not None
    assert found.toll_s == found.step_s > 0.0
