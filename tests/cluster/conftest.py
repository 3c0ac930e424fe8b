"""Four emulated hosts for the whole lane, and the way to run a job on them."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_tools import NUM_HOSTS, RunOnCluster, bring_up, emulated_cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """Four hosts that are up, one test session of this machine at a time; down again whatever happens."""
    with open(Path(tempfile.gettempdir(), "mpispec-test-cluster.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        bring_up(NUM_HOSTS)
        try:
            yield
        finally:
            result = emulated_cluster("down")
            assert result.returncode == 0, result.stderr


@pytest.fixture
def run_on_cluster(cluster: None, tmp_path: Path) -> RunOnCluster:
    """`run_on_cluster(num_ranks, argv)` runs an MPI job on the four hosts."""
    return RunOnCluster(tmp_path)
