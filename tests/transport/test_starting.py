"""A rank that waits inside MPI for a host that does not answer is ended, and says which host it is."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from mpispec.transport.start_watch import sentence, unanswered
from mpispec.transport.starting import watched
from tests.launch import REPOSITORY

pytestmark = pytest.mark.transport

FULL = 8
"""Connections after which a listener with the shortest queue answers no more."""
RANK = """
import socket, sys
from mpispec.transport.starting import watched
asking = [socket.socket() for _ in range(int(sys.argv[2]))]
with watched(3, 1.0):
    for each in asking:
        each.setblocking(False)
        each.connect_ex(("127.0.0.1", int(sys.argv[1])))
    if len(sys.argv) > 3:
        sys.exit(print("began"))
    while True:  # as in MPI_Init
        pass
"""


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that answers a few connections, and nothing to those after them, as behind a firewall."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        yield listener.getsockname()[1]


def rank(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", RANK, *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)


def test_a_host_that_does_not_answer_is_named(silent_port: int) -> None:
    ended = rank(silent_port, FULL)
    assert ended.returncode == -signal.SIGTERM
    [said] = ended.stderr.splitlines()
    assert said == f"mpispec: {sentence(3, socket.gethostname(), f'127.0.0.1:{silent_port}', 1.0)}"
    assert "UCX_NET_DEVICES" in said


def test_a_rank_that_has_begun_is_left_alone(silent_port: int) -> None:
    ended = rank(silent_port, 1, "begins")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "began\n", "")


def test_only_connections_without_an_answer_count(silent_port: int) -> None:
    pid = os.getpid()
    with socket.create_connection(("127.0.0.1", silent_port)), watched(0):
        assert list(unanswered(pid)) == []
    asking = [socket.socket() for _ in range(FULL)]
    try:
        for each in asking:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", silent_port))
        assert {address for _, address in unanswered(pid)} == {f"127.0.0.1:{silent_port}"}
    finally:
        for each in asking:
            each.close()


def test_a_process_that_is_gone_asks_nobody() -> None:
    assert list(unanswered(2**22 + 1)) == []
