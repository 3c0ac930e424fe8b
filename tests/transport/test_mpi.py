"""MPI ranks keep the contract, and a job ends as a whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.launch import REPOSITORY, find_mpiexec, is_openmpi, run_ranks
from tests.transport.contract import CHECKS

pytestmark = [
    pytest.mark.transport,
    pytest.mark.skipif(find_mpiexec() is None, reason="no MPI is installed: pip install mpispec[mpich]"),
]

TIMEOUT = 100.0
OVER_TCP = {"MPIR_CVAR_NOLOCAL": "1", "UCX_TLS": "tcp,self", "OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": "tcp,self"}
OVER_LIBFABRIC = {"MPIR_CVAR_NOLOCAL": "1", "MPIR_CVAR_CH4_NETMOD": "ofi", "FI_PROVIDER": "tcp"}
ONLY_MPICH = pytest.mark.skipif(is_openmpi(), reason="the setting is MPICH's")


def run_scenario(n: int, name: str, folder: Path, **env: str) -> list[dict[str, Any]]:
    job = run_ranks(n, [sys.executable, "-m", "tests.transport.scenario", name, str(folder)], TIMEOUT, env)
    assert job.returncode == 0, job.stderr
    return [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(n)]


@pytest.mark.parametrize(
    ("n", "env"),
    [
        pytest.param(1, {}, id="1"),
        pytest.param(2, {}, id="2"),
        pytest.param(3, {}, id="3"),
        pytest.param(4, {}, id="4"),
        pytest.param(4, {"MPISPEC_DOORBELL": "off"}, id="4 without doorbell"),
        pytest.param(4, OVER_TCP, id="4 over TCP"),
        pytest.param(4, OVER_LIBFABRIC, id="4 over libfabric", marks=ONLY_MPICH),
    ],
)
def test_ranks_keep_the_contract(n: int, env: dict[str, str], tmp_path: Path) -> None:
    for results in run_scenario(n, "contract", tmp_path, **env):
        assert results["checks"] == dict.fromkeys(CHECKS, "ok")
        assert results["has_doorbell"] == (n > 1 and "MPISPEC_DOORBELL" not in env)


def test_collectives_work_before_and_after_the_planes_are_open(tmp_path: Path) -> None:
    for results in run_scenario(3, "collectives", tmp_path):
        assert results["gathered"] == [[0, []], [1000, [1]], [2000, [2]]]
        assert "Rank 1 contributes 1 bytes" in results["refusal"]
        assert results["again"] == [0, 0, 0]


def test_unequal_limits_are_refused_everywhere(tmp_path: Path) -> None:
    for results in run_scenario(2, "unequal_limits", tmp_path):
        assert "same model and options" in results["refusal"]


def test_ranks_that_cannot_reach_each_other_are_named_before_the_loop(tmp_path: Path) -> None:
    job = run_ranks(2, [sys.executable, "-m", "tests.transport.scenario", "unreachable", str(tmp_path)], TIMEOUT)
    assert job.returncode != 0
    assert "Nothing comes from rank 1 (" in job.stderr and "to rank 0 (" in job.stderr
    assert "UCX_NET_DEVICES" in job.stderr


def test_a_job_may_end_with_unread_frames(tmp_path: Path) -> None:
    assert run_scenario(3, "unread", tmp_path) == [{}, {}, {}]


def test_an_exception_on_one_rank_ends_the_job(tmp_path: Path) -> None:
    job = run_ranks(3, [sys.executable, "-m", "tests.transport.scenario", "raises", str(tmp_path)], TIMEOUT)
    assert job.returncode != 0
    assert "rank 1 fails on purpose" in job.stderr


def test_abort_sets_the_exit_code(tmp_path: Path) -> None:
    job = run_ranks(3, [sys.executable, "-m", "tests.transport.scenario", "aborts", str(tmp_path)], TIMEOUT)
    assert job.returncode == 42


@pytest.mark.parametrize("family", ["own", "other"])
def test_the_wrong_launcher_is_reported_with_the_remedy(family: str) -> None:
    """A process that its environment calls rank 1 of 2, but that the installed MPI finds alone."""
    openmpi = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}
    hydra = {"PMI_RANK": "1", "PMI_SIZE": "2"}
    env = openmpi if is_openmpi() == (family == "own") else hydra
    program = "from mpispec.transport.mpi import connect; connect()"
    process = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )
    assert process.returncode == 1
    assert f"start mpispec with {sys.prefix}/bin/mpirun" in process.stderr
