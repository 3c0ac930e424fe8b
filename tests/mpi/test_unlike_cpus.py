"""A rank whose CPU lacks what its llama.cpp was built to use: the job ends with a sentence, before anything crashes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mpispec.compute import cpu_needs
from mpispec.transport.environment import hostname
from tests.mpi.program import MPISPEC, Program

pytestmark = pytest.mark.mpi

USAGE = 2
# The launcher starts this on each rank; one of them finds another llama_cpp first.
ON_ONE_RANK = """
[ "${PMI_RANK:-$OMPI_COMM_WORLD_RANK}" != "$0" ] || export PYTHONPATH="$1"
shift
exec "$@"
"""


@pytest.fixture
def lesser(tmp_path: Path) -> Path:
    """Return a folder with a llama_cpp that no CPU can run: loading it is an illegal instruction."""
    package = tmp_path / "llama_cpp"
    package.mkdir()
    (package / "__init__.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
    (package / cpu_needs.FILE).write_text(json.dumps({"build": "native", "needs": ["warp_drive"]}))
    return tmp_path


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("command", [("generate", "--prompt", "One"), ("serve",)])
def test_an_unfit_rank_is_named_before_libllama_is_loaded(lesser: Path, rank: int, command: tuple[str, ...]) -> None:
    starter = ["sh", "-c", ON_ONE_RANK, str(rank), str(lesser)]
    with Program(2, [*starter, *MPISPEC, *command]) as program:
        assert program.wait() == USAGE, program.stderr
        program.assert_ended()
        (line,) = [line for line in program.stderr.splitlines() if "warp_drive" in line]
        assert line == "mpispec: " + cpu_needs.sentence([hostname()], ["warp_drive"])
