"""Signals that ask for the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from mpispec.runtime.process import SIGNALS, AskedToEnd, leave_ending_to_rank_0

pytestmark = pytest.mark.unit


@pytest.fixture
def signals() -> Iterator[None]:
    """Give the signals back as they were."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_rank_0_is_asked_to_end_once(signals: None, number: signal.Signals) -> None:
    received: list[str] = []
    AskedToEnd().call(lambda: received.append("end"))
    for _ in range(3):
        os.kill(os.getpid(), number)
    assert received == ["end"]


def test_until_someone_listens_the_signal_ends_the_process() -> None:
    program = "import os; from mpispec.runtime.process import AskedToEnd; AskedToEnd(); os.kill(os.getpid(), 15)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=30).returncode == -signal.SIGTERM


def test_another_rank_lives_on_for_a_time_that_does_not_begin_anew(signals: None) -> None:
    leave_ending_to_rank_0(100.0)
    os.kill(os.getpid(), signal.SIGTERM)
    left = signal.getitimer(signal.ITIMER_REAL)[0]
    assert 100.0 < left <= 120.0
    leave_ending_to_rank_0(500.0)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert 0.0 < signal.getitimer(signal.ITIMER_REAL)[0] <= left


def test_that_time_ends_the_process() -> None:
    program = (
        "import os, signal; from mpispec.runtime import process; process._MARGIN_S = 0.05\n"
        "process.leave_ending_to_rank_0(0.0); os.kill(os.getpid(), 15); print('on', flush=True); signal.pause()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=30)
    assert (done.stdout, done.returncode) == ("on\n", -signal.SIGALRM)
