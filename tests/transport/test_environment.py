"""The launcher's variables give rank and size without any MPI."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mpispec.transport.environment import Launch, host_identity, hostname, read_launch
from tests.launch import REPOSITORY

pytestmark = pytest.mark.transport

OPENMPI = {
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
}
HYDRA = {"PMI_RANK": "2", "PMI_SIZE": "3", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "1"}
SRUN = {
    "SLURM_PROCID": "6",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3),1",
    "SLURM_NODEID": "3",
    "SLURM_LOCALID": "0",
}
BATCH_SCRIPT = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_NODEID": "0", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize(
    ("environ", "launch"),
    [
        ({}, Launch("none", 0, 1, 0, 1)),
        (OPENMPI, Launch("openmpi", 5, 8, 1, 4)),
        (HYDRA, Launch("hydra", 2, 3, 0, 1)),
        (SRUN, Launch("slurm", 6, 7, 0, 1)),
        (SRUN | {"SLURM_NODEID": "1", "SLURM_LOCALID": "1"}, Launch("slurm", 6, 7, 1, 2)),
        (BATCH_SCRIPT, Launch("none", 0, 1, 0, 1)),
        (SRUN | OPENMPI, Launch("openmpi", 5, 8, 1, 4)),
        (SRUN | HYDRA, Launch("hydra", 2, 3, 0, 1)),
        (SRUN | {"PMI_RANK": "6", "PMI_SIZE": "7"}, Launch("hydra", 6, 7, 0, 1)),
        ({"PMI_RANK": "0"}, Launch("none", 0, 1, 0, 1)),
        ({"PMI_RANK": "-1", "PMI_SIZE": "many"}, Launch("none", 0, 1, 0, 1)),
        ({"PMI_RANK": "3", "PMI_SIZE": "3"}, Launch("none", 0, 1, 0, 1)),
        (SRUN | {"SLURM_STEP_TASKS_PER_NODE": "?", "SLURM_NODEID": "x"}, Launch("slurm", 6, 7, 0, 1)),
    ],
    ids=str,
)
def test_rank_and_size_are_read_from_the_environment(environ: dict[str, str], launch: Launch) -> None:
    assert read_launch(environ) == launch


def test_processes_of_one_host_have_one_identity() -> None:
    program = "from mpispec.transport.environment import host_identity; print(host_identity())"
    child = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert child.stdout.strip() == host_identity()
    assert host_identity().startswith(hostname())


def test_one_rank_needs_no_mpi() -> None:
    program = (
        "import sys; import mpispec.transport.loopback, mpispec.transport.environment; print('mpi4py' in sys.modules)"
    )
    child = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "False"
