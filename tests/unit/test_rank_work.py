"""What ranks have done, asked for between drivers: the answers, and what becomes of a rank that is silent."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import cast

import pytest

from mpispec.core.ids import HEAD, Actor
from mpispec.core.messages import AskWork
from mpispec.runtime import rank_work
from mpispec.runtime.rank_work import RankWork, WorkOfRanks
from mpispec.runtime.worker import Worker

pytestmark = pytest.mark.unit

RANKS = {HEAD: 0, Actor(1): 0, Actor(2): 1, Actor(3): 2, Actor(4): 1}


def _head(*busy_s: float) -> WorkOfRanks:
    return WorkOfRanks(RANKS, 0, [cast(Worker, SimpleNamespace(busy_s=seconds)) for seconds in busy_s])


def test_every_other_rank_is_asked_once() -> None:
    head = _head(0.5, 2.0)
    woken = threading.Event()
    near, far = RankWork(0.25, (9, 0, 4)), RankWork(3.5, (1, 0, 0))
    head.count_sent(2, 40)
    head.count_sent(2, 2)

    def answer() -> None:
        woken.wait()
        sends = head.questions()
        assert [send.message for send in sends] == [AskWork(), AskWork()]
        assert {RANKS[send.dst] for send in sends} == {1, 2}
        assert head.questions() == []
        head.heard(2, far)
        head.heard(1, near)

    driver = threading.Thread(target=answer)
    driver.start()
    assert head.ask(woken.set) == {0: RankWork(2.0, (0, 0, 42)), 1: near, 2: far}
    driver.join()


def test_a_silent_rank_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_work, "_PATIENCE_S", 0.01)
    head = _head(1.0)
    near = RankWork(0.5, ())
    assert head.ask(lambda: head.heard(1, near)) == {0: RankWork(1.0, (0, 0, 0)), 1: near}


def test_a_rank_without_models_has_computed_nothing() -> None:
    assert WorkOfRanks({HEAD: 0}, 0, []).ask(lambda: None) == {0: RankWork(0.0, (0,))}
