"""Jobs over emulated hosts: real TCP between host names of a hostfile, nothing shared but the file system."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from cluster_tools import EMULATED_CLUSTER, NAME, NOT_ALLOWED, NUM_HOSTS, RunOnCluster, bring_up, emulated_cluster

pytestmark = pytest.mark.cluster

RING = str(Path(__file__).with_name("ring.py"))
CRASHED = "crashed"
FINE = "fine"


@pytest.mark.parametrize("mpi", ["mpich", "openmpi"])
@pytest.mark.parametrize("slots", [1, 2])
def test_a_ring_goes_over_all_hosts_of_a_hostfile(run_on_cluster: RunOnCluster, mpi: str, slots: int) -> None:
    size = NUM_HOSTS * slots
    job = run_on_cluster(size, ["python", RING], mpi=mpi, slots=slots)
    assert job.returncode == 0, job.stderr
    lines = sorted((json.loads(line) for line in job.stdout.splitlines()), key=lambda line: line["rank"])
    assert [line["rank"] for line in lines] == list(range(size))
    assert [line["received"] for line in lines] == [(rank - 1) % size for rank in range(size)]
    assert [line["host"] for line in lines] == [f"node{1 + rank // slots}" for rank in range(size)]
    assert {line["cores"] for line in lines} == {len(os.sched_getaffinity(0))}, "no rank may be pinned to one core"


def test_hosts_do_not_see_each_others_shared_memory(cluster: None) -> None:
    assert emulated_cluster("exec", "node1", "touch", "/dev/shm/left-by-node1").returncode == 0
    assert emulated_cluster("exec", "node1", "ls", "/dev/shm").stdout == "left-by-node1\n"
    assert emulated_cluster("exec", "10.77.0.2", "ls", "/dev/shm").stdout == ""
    assert not Path("/dev/shm/left-by-node1").exists()


def test_a_command_runs_in_the_callers_folder_and_its_exit_code_comes_back(cluster: None, tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(EMULATED_CLUSTER),
        "--cluster",
        NAME,
        "exec",
        "3",
        "sh",
        "-c",
        "pwd; hostname; exit 5",
    ]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout) == (5, f"{tmp_path}\nnode3\n")


def test_a_host_that_does_not_exist_is_named_in_one_sentence(cluster: None) -> None:
    result = emulated_cluster("exec", "node9", "true")
    assert (result.returncode, result.stderr) == (
        1,
        "emulated-cluster: There is no host 'node9'; there are node1 to node4.\n",
    )


@pytest.mark.parametrize("arguments", [["up"], ["list"], ["cpu"], ["quota", "0.5"], ["hostfile", "mpich"], ["down"]])
def test_a_user_without_root_gets_the_remedy(arguments: list[str]) -> None:
    python = "/usr/bin/python3"  # another user may not be able to reach ours
    if os.geteuid() != 0 or not os.path.exists(python):
        pytest.skip(f"needs root, to become another user, and {python}")
    command = [python, str(EMULATED_CLUSTER), *arguments]
    result = subprocess.run(
        command, user=65534, group=65534, extra_groups=[], cwd="/", capture_output=True, text=True, check=False
    )
    if "Permission denied" in result.stderr:
        pytest.skip(f"other users cannot read {EMULATED_CLUSTER}")
    assert result.returncode == NOT_ALLOWED
    assert result.stderr == "emulated-cluster: Emulated hosts need root; run this with sudo.\n"


def test_a_missing_compiler_is_named_before_anything_is_brought_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(EMULATED_CLUSTER.parent)
    for tool in ("sh", *import_module("emulation.hosts").TOOLS):
        if (program := shutil.which(tool)) is not None:
            (tmp_path / tool).symlink_to(program)
    monkeypatch.setenv("PATH", str(tmp_path))
    done = emulated_cluster("up", "2", "--share", "0.5", "--fine", cluster=FINE)
    if done.returncode == NOT_ALLOWED and "cc not found" not in done.stderr:
        pytest.skip(done.stderr.strip())
    expected = "emulated-cluster: cc not found; on Debian and Ubuntu: apt install gcc libc6-dev.\n"
    assert (done.returncode, done.stderr) == (NOT_ALLOWED, expected)


@pytest.mark.parametrize("name", ["/home/me", "..", "a b", ""])
def test_a_cluster_s_name_is_no_path(name: str) -> None:
    result = emulated_cluster("list", cluster=name)
    assert result.returncode == 2
    assert f"{name!r} is no name of a cluster; use letters, digits, - and _." in result.stderr


def test_an_empty_variable_means_the_default_cluster() -> None:
    command = [sys.executable, str(EMULATED_CLUSTER), "--help"]
    environment = os.environ | {"MPISPEC_CLUSTER": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert "(default: default)" in " ".join(done.stdout.split())


@pytest.fixture
def crashed(cluster: None) -> Iterator[str]:
    """A second cluster of two hosts, next to the first, whose lock it needs."""
    bring_up(2, cluster=CRASHED)
    yield CRASHED
    emulated_cluster("down", cluster=CRASHED)


def kill_keepers(cluster: str) -> None:
    """Kill what keeps the hosts of a cluster, as a crash would."""
    for line in emulated_cluster("list", cluster=cluster).stdout.splitlines():
        os.kill(int(line.split("keeper")[1].split()[0]), signal.SIGKILL)


def test_down_ends_what_runs_on_a_host_whose_keeper_was_killed(crashed: str) -> None:
    command = [sys.executable, str(EMULATED_CLUSTER), "--cluster", crashed, "exec", "1", "sh", "-c", "echo runs; cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "runs\n"
        kill_keepers(crashed)
        assert emulated_cluster("down", cluster=crashed).returncode == 0
        assert job.wait(timeout=10) == -signal.SIGKILL
    assert "is not up" in emulated_cluster("list", cluster=crashed).stderr
    assert not Path("/run/mpispec-cluster", crashed).exists()
    assert not list(Path("/sys/fs/cgroup").glob(f"*/mpispec/{crashed}"))
    assert emulated_cluster("down", cluster=crashed).returncode == 0, "down may be called again"


@pytest.fixture
def fine(cluster: None) -> Iterator[str]:
    """A second cluster of two hosts that act like slow cores."""
    bring_up(2, "--share", "0.5", "--fine", cluster=FINE)
    yield FINE
    emulated_cluster("down", cluster=FINE)


def helpers_of(cluster: str) -> list[int]:
    """Return the processes that smooth the shares of a cluster."""
    hosts = import_module("emulation.hosts")
    program = f"{hosts.STATE}/{cluster}/slowcore".encode()
    return [pid for pid in hosts.processes() if hosts.peek(pid, "cmdline").startswith(program)]


def test_down_ends_what_smooths_shares_on_hosts_whose_keepers_were_killed(
    fine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(EMULATED_CLUSTER.parent)
    assert len(helpers_of(fine)) == 3, "a burner a host, and what wakes the scheduler"
    kill_keepers(fine)
    assert emulated_cluster("down", cluster=fine).returncode == 0
    assert helpers_of(fine) == []


def test_a_helper_that_does_not_come_up_says_why(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EMULATED_CLUSTER.parent)
    shares, hosts = import_module("emulation.shares"), import_module("emulation.hosts")
    refused = ("sh", "-c", "echo slowcore tick: Operation not permitted >&2; exit 1")
    with pytest.raises(shares.NotAllowed, match=r"\(slowcore tick: Operation not permitted\); do without --fine"):
        shares.spawn(NAME, hosts.find_host(NAME, "1"), *refused)


@pytest.fixture
def joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of the cgroups of a machine where cpu and cpuacct are one tree, and of a host's state."""
    monkeypatch.syspath_prepend(EMULATED_CLUSTER.parent)
    shares, hosts = import_module("emulation.shares"), import_module("emulation.hosts")
    for folder in (tmp_path / "cpu,cpuacct", tmp_path / "cpuset"):
        folder.mkdir()
    for controller in ("cpu", "cpuacct"):
        (tmp_path / controller).symlink_to("cpu,cpuacct")
    for entry in ("cpuset.cpus", "cpuset.mems"):
        (tmp_path / "cpuset" / entry).write_text("0")
    monkeypatch.setattr(shares, "CGROUPS", tmp_path)
    monkeypatch.setattr(shares, "STATE", tmp_path)
    monkeypatch.setattr(shares, "hosts_of", lambda cluster: [hosts.Host("node1", 0)])
    return tmp_path


def test_groups_can_be_made_where_two_controllers_are_one_tree(joined: Path) -> None:
    shares = import_module("emulation.shares")
    shares.make("joined", pinned=False)
    usage = joined / "cpu,cpuacct" / "mpispec" / "joined" / "node1" / "cpuacct.usage"
    usage.write_text("1500000000")
    assert shares.seconds_used("joined", "node1") == 1.5
    (joined / "joined").mkdir()
    (joined / "joined" / "slowcore").touch()
    with pytest.raises(shares.NotAllowed, match="would count the burners of --fine"):
        shares.seconds_used("joined", "node1")


def test_the_self_test_says_what_was_asked_for_and_what_is_there(
    cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = json.loads(emulated_cluster("self-test", "--json").stdout)
    assert [host["host"] for host in found["hosts"]] == [f"node{1 + index}" for index in range(NUM_HOSTS)]
    assert all(0 < share <= 1.1 for host in found["hosts"] for share in host["share"].values())
    assert len(found["links"]) == NUM_HOSTS - 1
    assert all(link["rtt_ms"] > 0 and link["mbit_per_s"] > 0 for link in found["links"])
    monkeypatch.syspath_prepend(EMULATED_CLUSTER.parent)
    table = import_module("emulation.checks").lines(found)
    assert table[0].split()[:2] == ["host", "share"]
    assert len(table) == 2 * NUM_HOSTS + 2


def measured(share: float, rate: float, *, asked: bool = True) -> dict[str, Any]:
    """Return what the self-test finds on two hosts that were asked for 0.25 of a core and 1000 Mbit/s, or nothing."""
    host = {"host": "node1", "asked_share": 0.25 if asked else None, "share": {"1": share, "4": 0.25}}
    link = {"from": "node1", "to": "node2", "asked_mbit_per_s": 1000.0 if asked else None, "mbit_per_s": rate}
    return {"hosts": [host], "links": [link]}


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (measured(0.25, 950.0), None),
        (measured(0.30, 820.0), None),
        (measured(0.98, 100.0, asked=False), None),
        (measured(0.98, 700.0), "The share of node1 in bursts of 1 ms is 0.98 of a core instead of 0.25, 292% off"),
        (measured(0.20, 500.0), "The rate from node1 to node2 is 500 Mbit/s instead of 1000, 50% off"),
    ],
)
def test_the_self_test_names_the_worst_that_is_too_far_off(
    found: dict[str, Any], sentence: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(EMULATED_CLUSTER.parent)
    checks = import_module("emulation.checks")
    if sentence is None:
        checks.require_within(found, 0.25)
    else:
        with pytest.raises(checks.Failed, match=sentence):
            checks.require_within(found, 0.25)


def test_one_host_alone_may_be_slowed(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EMULATED_CLUSTER.parent)
    asked = import_module("emulation.shares").asked
    slowed = emulated_cluster("quota", "0.5", "--host", "2")
    if slowed.returncode == NOT_ALLOWED:
        pytest.skip(slowed.stderr.strip())
    assert slowed.returncode == 0, slowed.stderr
    assert [asked(NAME, f"node{1 + index}") for index in range(NUM_HOSTS)] == [None, 0.5, None, None]
    assert "say --period 100000 or more" in emulated_cluster("quota", "0.01").stderr
    assert emulated_cluster("quota", "0").returncode == 0
    assert asked(NAME, "node2") is None
