"""Whatever breaks on whichever rank, the job ends as a whole and says where and why."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import sys
from pathlib import Path

import psutil
import pytest

from tests.models import tiny
from tests.mpi.program import Program

pytestmark = pytest.mark.mpi

NUM_RANKS = 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small model."""
    return tiny.llama(tmp_path_factory.mktemp("models") / "tiny.gguf")


def broken(model: Path, place: str, rank: int) -> tuple[int, str]:
    """Run a job that breaks; return its exit code and what it complained."""
    with Program(NUM_RANKS, [sys.executable, "-m", "tests.mpi.faults", str(model), place, str(rank)]) as program:
        program.end_input()
        program.wait_for(r"mpispec: [^\n]*\n", "stderr")
        code = program.assert_ended()
        return code, program.stderr


@pytest.mark.parametrize(
    ("place", "rank"),
    [("load", 2), ("worker", 2), ("worker", 0), ("driver", 2), ("driver", 0), ("application", 0), ("thread", 0)],
)
def test_a_bug_ends_the_job_and_is_shown_where_it_is(model: Path, place: str, rank: int) -> None:
    code, said = broken(model, place, rank)
    assert code == 1
    sentence = (
        f"mpispec: Rank {rank} on {socket.gethostname()} failed, so the job ends: RuntimeError: broken on purpose"
    )
    assert re.findall("^mpispec: .*$", said, re.MULTILINE) == [sentence]
    assert said.count("Traceback") == 1, "a bug is worth one, on the rank that has it"
    assert "MPI_Abort" not in said


def test_a_failure_that_explains_itself_comes_without_a_traceback(model: Path) -> None:
    code, said = broken(model, "compute", 2)
    assert code == 1
    assert re.findall("^mpispec: .*$", said, re.MULTILINE) == [
        f"mpispec: Rank 2 on {socket.gethostname()} failed, so the job ends: broken on purpose"
    ]
    assert "Traceback" not in said


def test_what_one_rank_cannot_load_is_reported_by_the_first(model: Path) -> None:
    code, said = broken(model, "refusal", 2)
    assert code == 2
    assert re.findall("^mpispec: .*$", said, re.MULTILINE) == [
        f"mpispec: Rank 2 on {socket.gethostname()}: broken on purpose"
    ]
    assert "Traceback" not in said


def test_what_one_host_does_not_have_is_reported_by_the_first_rank(model: Path) -> None:
    code, said = broken(model, "doorbell", 2)
    assert code == 2
    (sentence,) = re.findall("^mpispec: .*$", said, re.MULTILINE)
    assert sentence.startswith(
        f"mpispec: Rank 2 on {socket.gethostname()}: MPISPEC_DOORBELL=nonsense0 names no interface"
    )
    assert "MPI_Abort" not in said


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_rank_takes_the_others_along(model: Path, rank: int, kind: signal.Signals) -> None:
    with Program(NUM_RANKS, [sys.executable, "-m", "tests.mpi.faults", str(model), "nowhere", "-1"]) as program:
        program.wait_for("running", "stdout")
        program.rank(rank).send_signal(kind)
        assert program.assert_ended() != 0
        assert "Traceback" not in program.stderr


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_the_launcher_ends_all_ranks(model: Path, kind: signal.Signals) -> None:
    with Program(NUM_RANKS, [sys.executable, "-m", "tests.mpi.faults", str(model), "nowhere", "-1"]) as program:
        program.wait_for("running", "stdout")
        program.process.send_signal(kind)
        assert program.assert_ended() != 0
        assert "Traceback" not in program.stderr


def test_a_rank_that_stands_still_is_missed_and_named(model: Path) -> None:
    """Its process lives on, so no launcher notices."""
    with Program(NUM_RANKS, [sys.executable, "-m", "tests.mpi.faults", str(model), "silence", "-1"]) as program:
        program.wait_for("running", "stdout")
        stopped = program.rank(2)
        stopped.suspend()
        program.wait_for(r"mpispec: [^\n]*\n", "stderr")
        with contextlib.suppress(psutil.NoSuchProcess):  # killed by the launcher
            stopped.resume()
        assert program.assert_ended() == 1
        assert "Rank 0 on " in program.stderr
        host = socket.gethostname()  # rank 0 or the ranks next to it may be the first to miss it
        lost = rf"nothing comes from rank 2 on {host}( to rank [13] on {host})?, though it was asked 4 times"
        assert re.search(lost, program.stderr)
