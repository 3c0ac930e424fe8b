"""How a job that cannot go on has to end."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence

import psutil

from tests.launch import is_openmpi
from tests.mpi.program import GONE_SECONDS, Program

MARK = "MPISPEC_TEST_JOB"


def members(mark: str) -> list[psutil.Process]:
    """Return every process on this machine that belongs to the job marked so, by its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:  # gone meanwhile, or another user's
            continue
    return found


def assert_gone(mark: str) -> None:
    """Assert that within the time allowed no process of the job is left."""
    _, alive = psutil.wait_procs(members(mark), timeout=GONE_SECONDS)
    assert not alive, f"left behind: {alive}"


def fails(n: int, argv: Sequence[str], env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a job to its end; return the exit code and the one sentence it says about its failure.

    Asserts that the sentence comes once, that the code says failure, and that no rank outlives it.
    """
    mark = uuid.uuid4().hex
    with Program(n, argv, {**(env or {}), MARK: mark}) as program:
        program.end_input()
        program.wait_for(r"mpispec: [^\n]*\n", stream="stderr", seconds=100)
        code = program.wait(GONE_SECONDS)
        assert_gone(mark)
        sentences = re.findall(r"^mpispec: (.*)$", program.stderr, re.MULTILINE)
    assert len(sentences) == 1, program.stderr
    assert code != 0
    return code, sentences[0]


def refuses(n: int, argv: Sequence[str], env: Mapping[str, str] | None = None) -> str:
    """Run a job that the user can mend; return the sentence, which is all that is said."""
    mark = uuid.uuid4().hex
    with Program(n, argv, {**(env or {}), MARK: mark}) as program:
        program.end_input()
        program.wait_for(r"mpispec: [^\n]*\n", stream="stderr", seconds=100)
        code = program.wait(GONE_SECONDS)
        assert_gone(mark)
        said = program.stderr
    assert code == 2, said
    if not (n and is_openmpi()):  # whose launcher adds a paragraph of its own
        assert re.fullmatch(r"mpispec: [^\n]+\n", said), said
    (sentence,) = re.findall(r"^mpispec: (.*)$", said, re.MULTILINE)
    return str(sentence)
