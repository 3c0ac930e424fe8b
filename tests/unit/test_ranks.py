"""Which rank says why the job cannot begin: rank 0 what all of them find, each what it alone finds."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import NoReturn

import pytest

from mpispec.runtime import process
from mpispec.transport.base import SharedError, TransportError
from mpispec.transport.environment import hostname

pytestmark = pytest.mark.unit

SENTENCE = "The network is down; plug it in."


class Missing:
    """A module that cannot be loaded, as `transport.mpi` where there is no MPI."""

    __spec__ = None

    def __getattr__(self, name: str) -> NoReturn:
        raise TransportError(SENTENCE)


def failing(kind: type[TransportError]) -> SimpleNamespace:
    """Return a module whose ranks cannot connect."""

    def connect() -> NoReturn:
        raise kind(SENTENCE)

    return SimpleNamespace(connect=connect)


def fail_to_join(rank: int, local_rank: int, transport: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a rank of four, two on each host, fail to join."""
    place = {"PMI_RANK": rank, "PMI_SIZE": 4, "MPI_LOCALRANKID": local_rank, "MPI_LOCALNRANKS": 2}
    for name, number in place.items():
        monkeypatch.setenv(name, str(number))
    monkeypatch.setitem(sys.modules, "mpispec.transport.mpi", transport)  # type: ignore[arg-type]
    with pytest.raises(SystemExit) as ended, process.joined():
        pass
    assert ended.value.code == process.USAGE


@pytest.mark.parametrize("rank", range(4))
def test_rank_0_reports_what_all_have_found(
    rank: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_to_join(rank, rank % 2, failing(SharedError), monkeypatch)
    assert capsys.readouterr().err == (f"mpispec: {SENTENCE}\n" if rank == 0 else "")


@pytest.mark.parametrize("rank", range(4))
def test_each_rank_reports_what_has_failed_on_it(
    rank: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_to_join(rank, rank % 2, failing(TransportError), monkeypatch)
    assert capsys.readouterr().err == f"mpispec: Rank {rank} on {hostname()}: {SENTENCE}\n"


@pytest.mark.parametrize("rank", range(4))
def test_one_rank_of_each_host_reports_that_there_is_no_mpi(
    rank: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_to_join(rank, rank % 2, Missing(), monkeypatch)
    sentence = f"mpispec: Rank {rank} on {hostname()}: {SENTENCE}\n"
    assert capsys.readouterr().err == (sentence if rank % 2 == 0 else "")
