"""Broken requests en masse to real ranks: these do not notice."""

from __future__ import annotations

import httpx
import pytest

from tests.hostile import storm
from tests.mpi.program import Program
from tests.mpi.test_serve import QUESTION, chat, serving

pytestmark = pytest.mark.mpi

WARM = 60
MIB = 1 << 20
GROWTH = 48 * MIB
"""Bytes that a process may grow by once it has met everything."""


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_ranks_do_not_notice_what_strangers_send(count: int) -> None:
    with serving(2, "--no-repl", "--ctx", "128", "--log", "off") as (program, client):
        url = str(client.base_url)
        before = chat(client, QUESTION)
        storm(url.rstrip("/"), range(WARM), at_once=4)
        sizes = sizes_of(program)
        found = storm(url.rstrip("/"), range(WARM, count), at_once=4)
        assert found[400] > found[200] > 0
        assert chat(client, QUESTION) == before
        assert settled(client), "everything that was begun has ended or was given up"
        now = sizes_of(program)
        assert len(now) > 2, "both ranks, and whoever belongs to them"
        for pid, size in sizes.items():
            assert now.get(pid, 0) - size < GROWTH, f"process {pid} has {(now[pid] - size) / MIB:.0f} MiB more"
        assert "Traceback" not in program.stderr
        program.rank(0).terminate()
        assert program.assert_ended() == 0


def sizes_of(program: Program) -> dict[int, int]:
    """Return the resident bytes of each process of the job: ranks, launcher, what renders templates."""
    return {member.pid: member.memory_info().rss for member in program.members()}


def settled(client: httpx.Client) -> bool:
    """Wait until no request runs or waits."""
    for _ in range(1000):
        stats = client.get("/stats").json()
        if stats["open"] == 0 and stats["now"]["running"] == 0 and stats["now"]["rows_in_flight"] == 0:
            return True
    return False
