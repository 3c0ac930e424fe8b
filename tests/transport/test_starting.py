"""A rank that waits inside MPI for a host that does not answer is ended, and says which host it is."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpispec.transport import start_watch
from mpispec.transport.start_watch import hint, sentence, unanswered
from mpispec.transport.starting import tuning, watched
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


def test_a_rank_that_waits_for_others_whose_connections_all_answer_says_what_may_be_wrong() -> None:
    """Quickly here, and by rank 0 alone."""
    for number, said in ((0, f"mpispec: {hint('here', start_watch.HINT_LOOKS * 0.01)}\n"), (1, "")):
        script = "from mpispec.transport import start_watch as w; w.LOOK_SECONDS = 0.01; w.main(1 << 22, *{}, 9.0)"
        command = [sys.executable, "-c", script.format((number, "here"))]
        with subprocess.Popen(
            command, cwd=REPOSITORY, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as watch:
            assert watch.stdin is not None and watch.stderr is not None
            if said:
                assert watch.stderr.readline() == said
            watch.stdin.close()
            assert watch.stderr.read() == ""


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


def test_bridges_for_containers_are_no_way_to_other_hosts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A card that the user has named is left alone, whether by a variable or in a file."""
    name = "OMPI_MCA_btl_tcp_if_exclude"
    cards = ["lo", "eth0", "br0", "docker0", "br-0123456789ab", "virbr0", "wlan0", "br-lan"]
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in [each for each in os.environ if "btl_tcp_if" in each]:
        monkeypatch.delenv(variable)
    assert tuning(True, cards)[name] == "127.0.0.1/8,sppp,br-0123456789ab,docker0,virbr0"
    assert name not in tuning(False, cards) and name not in tuning(True, ["lo", "eth0"])
    (tmp_path / ".openmpi").mkdir()
    (tmp_path / ".openmpi" / "mca-params.conf").write_text("# cards\nbtl_tcp_if_include = eth0\n")
    assert name not in tuning(True, cards)
    monkeypatch.setenv("HOME", "/nowhere")
    monkeypatch.setenv("OMPI_MCA_btl_tcp_if_include", "eth0")
    assert name not in tuning(True, cards)


def test_a_process_that_is_gone_asks_nobody() -> None:
    assert list(unanswered(2**22 + 1)) == []
