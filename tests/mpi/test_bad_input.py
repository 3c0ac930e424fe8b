"""What a user can get wrong is one sentence with the remedy, said once however many ranks there are.

Every single mistake is in tests/unit/test_cli.py, on one rank; here is one of each kind of place to find it.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch import is_openmpi
from tests.models import tiny
from tests.mpi.crafted import renamed
from tests.mpi.program import MPISPEC, Program

pytestmark = pytest.mark.mpi

GENERATE = (*MPISPEC, "generate", "--prompt", "Hello")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Return a model of two layers."""
    return tiny.llama(tmp_path / "small.gguf", n_layers=2)


@pytest.fixture
def taken_port() -> Iterator[int]:
    """Return a port that is in use."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def refusal(n: int, *argv: str) -> str:
    """Run a job that cannot be; return all that it says, without what Open MPI's launcher adds."""
    with Program(n, argv) as program:
        program.end_input()
        program.wait()
        assert program.assert_ended() == 2, program.stderr
        assert not program.stdout
        said = program.stderr
    return "\n".join(re.findall("^mpispec: .*$", said, re.MULTILINE)) if is_openmpi() else said.strip()


def test_a_mistake_that_all_ranks_find_is_one_sentence() -> None:
    said = refusal(4, *GENERATE, "--model", "/nowhere.gguf")
    assert re.fullmatch("mpispec: There is no model file /nowhere.gguf; check the path, or .*", said)


def test_a_mistake_that_the_first_rank_finds_alone_is_one_sentence() -> None:
    said = refusal(4, *MPISPEC, "generate", "--prompt", " ")
    assert said == "mpispec: The prompt is empty; give some text with --prompt, --file or on standard input."


def test_a_mistake_in_the_command_line_is_said_once() -> None:
    said = refusal(4, *GENERATE, "--strategy", "slow")
    assert said.count("Usage: ") == (not is_openmpi())
    assert said.count("'slow' is not one of") == (not is_openmpi())


def test_more_ranks_than_layers_are_refused(small: Path) -> None:
    said = refusal(4, *GENERATE, "--model", str(small))
    assert said == "mpispec: 4 ranks are too many for the 2 layers of small.gguf; start at most 2."


def test_an_architecture_that_is_not_certified_is_refused(small: Path, tmp_path: Path) -> None:
    model = renamed(small, tmp_path / "other.gguf", "starcoder2")
    said = refusal(2, *GENERATE, "--model", str(model))
    assert re.fullmatch("mpispec: starcoder2 is not certified .* Choose another model, or run it on one stage.", said)


def test_a_port_that_is_in_use_is_refused(taken_port: int) -> None:
    said = refusal(4, *MPISPEC, "serve", "--port", str(taken_port))
    assert re.fullmatch(f"mpispec: Port {taken_port} on 127.0.0.1 is in use; .* choose another with --port.", said)


def test_help_is_shown_once() -> None:
    with Program(3, [*MPISPEC, "generate", "--help"]) as program:
        assert program.wait() == 0
        assert program.stdout.count("Usage: ") == 1
