"""The main job over emulated hosts: the hostfile's names, real TCP, the same words as on one rank."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import pytest
from cluster_tools import NUM_HOSTS, RunOnCluster, emulated_cluster

pytestmark = pytest.mark.cluster

PROMPT = "One, two, three, one, two, three, one, two,"
# One thread a host: the hosts share the cores of this machine, and ggml's threads spin on each other's results.
COMMAND = ["mpispec", "generate", "--prompt", PROMPT, "-n", "48", "--json", "--threads", "1"]


@lru_cache
def text_of_one_rank() -> str:
    """What the target writes without a cluster, without MPI and without speculation."""
    argv = [sys.executable, "-m", *COMMAND, "--strategy", "plain"]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=True)
    return str(json.loads(result.stdout)["text"])


def answer(run_on_cluster: RunOnCluster, mpi: str, *options: str) -> dict[str, Any]:
    """Generate on all hosts and return the JSON object."""
    job = run_on_cluster(NUM_HOSTS, [*COMMAND, *options], mpi=mpi)
    assert job.returncode == 0, job.stderr
    written: dict[str, Any] = json.loads(job.stdout)
    return written


@pytest.mark.parametrize("mpi", ["mpich", "openmpi"])
@pytest.mark.parametrize("strategy", ["plain", "pipeinfer"])
def test_four_hosts_write_what_one_rank_writes(run_on_cluster: RunOnCluster, mpi: str, strategy: str) -> None:
    written = answer(run_on_cluster, mpi, "--strategy", strategy)
    assert written["text"] == text_of_one_rank()
    assert [rank["host"] for rank in written["ranks"]] == [f"node{index + 1}" for index in range(NUM_HOSTS)]
    assert [rank["layers"][0][0] for rank in written["ranks"]] == sorted(
        rank["layers"][0][0] for rank in written["ranks"]
    )


@pytest.fixture
def divided_hosts(cluster: None) -> Iterator[None]:
    """Lose all that node3 and node4 send each other; the launcher, on node1, reaches both."""
    pairs = (("node3", "10.77.0.4"), ("node4", "10.77.0.3"))
    nobody = ("lladdr", "02:00:00:00:00:99", "dev", "eth0", "nud", "permanent")
    for host, other in pairs:
        assert emulated_cluster("exec", host, "ip", "neigh", "replace", other, *nobody).returncode == 0
    yield
    for host, other in pairs:
        assert emulated_cluster("exec", host, "ip", "neigh", "del", other, "dev", "eth0").returncode == 0


def test_hosts_that_cannot_reach_each_other_are_named(divided_hosts: None, run_on_cluster: RunOnCluster) -> None:
    """MPI would try for an hour, spinning, without a word."""
    job = run_on_cluster(NUM_HOSTS, COMMAND)
    assert job.returncode != 0
    said = [line for line in job.stderr.splitlines() if line.startswith("mpispec: ")]
    assert any(
        line.startswith(f"mpispec: Rank {rank} on {host} has had no answer from {other}:") and "UCX_NET_DEVICES" in line
        for line in said
        for rank, host, other in ((2, "node3", "10.77.0.4"), (3, "node4", "10.77.0.3"))
    ), job.stderr
