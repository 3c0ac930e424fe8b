"""A rank whose control group is too small for its layers is named, and nothing is killed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch import REPOSITORY, find_mpiexec, is_openmpi
from tests.mpi.program import MPISPEC

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

LIMIT = 150_000_000
"""A process that has loaded nothing takes a third of it."""


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of so much memory; skips the test where none can be made."""
    for parent, file in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        folder = parent / f"mpispec-test-memory-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            if (folder / file).exists():
                (folder / file).write_text(str(LIMIT))
                yield folder
                return
        finally:
            folder.rmdir()
    pytest.skip("no control group with the memory controller can be made here")


@pytest.mark.skipif(find_mpiexec() is None or is_openmpi(), reason="the command line is that of MPICH's mpiexec")
def test_a_rank_that_is_too_small_is_named(group: Path) -> None:
    program = [*MPISPEC, "generate", "--prompt", "hi", "-n", "4"]
    inside = ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh", *program]
    job = subprocess.run(
        [str(find_mpiexec()), "-n", "1", *program, ":", "-n", "1", *inside],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert job.returncode == 2, job.stderr
    [said] = [line for line in job.stderr.splitlines() if line.startswith("mpispec: ")]
    assert said.startswith("mpispec: Rank 1 on ")
    assert f"are left there (the memory limit of {group}); " in said
    assert "--layout" in said
    assert "Traceback" not in job.stderr
