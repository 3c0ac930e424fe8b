"""What a head says of itself: requests, runs and rows in flight, cells."""

from __future__ import annotations

import pytest

from mpispec.core.config import HeadConfig
from mpispec.core.events import Received, Submitted, Withdrawn
from mpispec.core.head import HeadCore
from mpispec.core.ids import Actor, NodeId, RequestId, RunId, Token
from mpispec.core.messages import Result, Sampling
from mpispec.core.traits import BackendTraits
from mpispec.strategies import PRESETS

pytestmark = pytest.mark.unit

CONTEXT = 64
PROMPT = tuple(Token(token) for token in (5, 6, 7))
STAGE = Actor(1)


def head_of(max_active: int = 1, cells: int | None = None, **traits: bool) -> HeadCore:
    config = HeadConfig(
        1, None, context=CONTEXT, sequences=8, max_active=max_active, cells=cells, traits=BackendTraits(**traits)
    )
    return HeadCore(config, PRESETS, {})


def submit(head: HeadCore, number: int) -> None:
    head.handle(Submitted(RequestId(number), PROMPT, 8, frozenset(), Sampling(), "plain", "none"), 0.0)


def test_an_idle_head_has_nothing_in_use() -> None:
    assert head_of(2, 100).occupancy.read() == {
        "running": 0,
        "waiting": 0,
        "most_running": 2,
        "runs_in_flight": 0,
        "rows_in_flight": 0,
        "cells_used": 0,
        "cells": 100,
    }


def test_what_runs_waits_and_is_in_flight_is_counted() -> None:
    head = head_of()
    submit(head, 0)
    submit(head, 1)
    found = head.occupancy.read()
    assert (found["running"], found["waiting"]) == (1, 1)
    assert (found["runs_in_flight"], found["rows_in_flight"], found["cells_used"]) == (1, 1, 3)
    answer = Result(RunId(0), (RequestId(0),), (NodeId(2),), (Token(9),))
    head.handle(Received(STAGE, answer), 1.0)
    assert head.occupancy.read()["cells_used"] == 4, "the token that was decided is under way"
    head.handle(Withdrawn(RequestId(0)), 2.0)
    found = head.occupancy.read()
    assert (found["running"], found["waiting"]) == (1, 0)
    assert found["rows_in_flight"] == 2, "what was cancelled is in flight until it is answered"


@pytest.mark.parametrize(("own", "cells"), [(True, 3 * CONTEXT), (False, 100)])
def test_cells_are_those_of_all_caches(own: bool, cells: int) -> None:
    head = head_of(3, 100, has_own_cells=own)
    submit(head, 0)
    found = head.occupancy.read()
    assert (found["cells_used"], found["cells"]) == (3, cells)
