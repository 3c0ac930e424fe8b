"""How long ranks have computed, asked for between drivers: the answers, and what becomes of a rank that is silent."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import cast

import pytest

from mpispec.core.ids import HEAD, Actor
from mpispec.core.messages import AskWork
from mpispec.runtime import work_time
from mpispec.runtime.work_time import WorkTime
from mpispec.runtime.worker import Worker

pytestmark = pytest.mark.unit

RANKS = {HEAD: 0, Actor(1): 0, Actor(2): 1, Actor(3): 2, Actor(4): 1}


def _head(*busy_s: float) -> WorkTime:
    return WorkTime(RANKS, 0, [cast(Worker, SimpleNamespace(busy_s=seconds)) for seconds in busy_s])


def test_every_other_rank_is_asked_once() -> None:
    head = _head(0.5, 2.0)
    woken = threading.Event()

    def answer() -> None:
        woken.wait()
        sends = head.questions()
        assert [send.message for send in sends] == [AskWork(), AskWork()]
        assert {RANKS[send.dst] for send in sends} == {1, 2}
        assert head.questions() == []
        head.heard(2, 3.5)
        head.heard(1, 0.25)

    driver = threading.Thread(target=answer)
    driver.start()
    assert head.ask(woken.set) == {0: 2.0, 1: 0.25, 2: 3.5}
    driver.join()


def test_a_silent_rank_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_time, "_PATIENCE_S", 0.01)
    head = _head(1.0)
    assert head.ask(lambda: head.heard(1, 0.5)) == {0: 1.0, 1: 0.5}


def test_a_rank_without_models_has_computed_nothing() -> None:
    assert WorkTime({HEAD: 0}, 0, []).ask(lambda: None) == {0: 0.0}
