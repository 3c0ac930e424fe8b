"""Hosts made of kernel namespaces, and the switch that joins them.

Each host is kept alive by one sleeping process, the keeper, which carries the cluster's and the host's name as its
title. There is no list of what is up but the list of processes: when the keepers end, the kernel removes interfaces
and mounts, so taking down is safe at any time, and complete.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from emulation.errors import Failed, NotAllowed

STATE = Path("/run/mpispec-cluster")
SWITCH = "switch"
DEADLINE = 10.0
"""Seconds that any one step of bringing up or taking down may need."""
TOOLS = {
    "ip": "iproute2",
    "tc": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "mount": "mount",
    "hostname": "hostname",
    "bash": "bash",
}
"""What makes hosts, and the packages of it."""
UNSHARE = ("unshare", "--net", "--uts", "--ipc", "--mount", "--propagation", "private")

# /sys is mounted anew so that /sys/class/net shows the host's own interfaces, and the cgroup tree put back into it.
KEEPER_SCRIPT = """
set -e
title=$1 name=$2 hosts=$3 sys=$4
hostname "$name"
ip link set lo up
mount -t tmpfs -o size=2g tmpfs /dev/shm
mount --bind "$hosts" /etc/hosts
if mount -t sysfs sysfs "$sys" 2>/dev/null; then
    mount --rbind /sys/fs/cgroup "$sys/fs/cgroup"
    mount --move "$sys" /sys
fi
echo up
exec -a "$title" sleep infinity > /dev/null 2>&1
"""
TRIAL_SCRIPT = """
set -e
ip link add name b type bridge
ip link add name v type veth peer name w
mount -t tmpfs tmpfs /dev/shm
"""


class Host(NamedTuple):
    """One running host, or the switch."""

    name: str
    pid: int
    """Of its keeper."""

    @property
    def number(self) -> int:
        """1 for the first host, 0 for the switch."""
        return 0 if self.name == SWITCH else int(self.name.removeprefix("node"))

    @property
    def address(self) -> str:
        """Its IPv4 address; every cluster has a network of its own, so all use the same ones."""
        return f"10.77.0.{self.number}"

    def command(self, *command: str) -> list[str]:
        """Return the command line that runs a command in the host's namespaces."""
        return ["nsenter", "--target", str(self.pid), "--net", "--uts", "--ipc", "--mount", "--", *command]

    def run(self, *command: str) -> str:
        """Run a command on the host and return its output; raise Failed if it fails."""
        return run(*self.command(*command))


def run(*command: str) -> str:
    """Run a command and return its output; raise Failed with what it said if it fails."""
    result = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    if result.returncode != 0:
        said = (result.stderr or result.stdout).strip().splitlines() or [f"exit code {result.returncode}"]
        raise Failed(f"`{' '.join(command)}` failed: {said[-1]}.")
    return result.stdout


# ---- what is running ---------------------------------------------------------------------------------------------


def title(cluster: str, name: str) -> str:
    """Return the title by which a keeper shows in the list of processes."""
    return f"mpispec-host:{cluster}:{name}"


def processes() -> Iterator[int]:
    """Yield the ids of all processes."""
    return (int(entry) for entry in os.listdir("/proc") if entry.isdigit())


def peek(pid: int, entry: str) -> bytes:
    """Return a file of a process's /proc folder, empty if the process has ended."""
    try:
        return Path(f"/proc/{pid}/{entry}").read_bytes()
    except OSError:
        return b""


def namespace(pid: int | str, kind: str) -> str | None:
    """Return which namespace of a kind a process is in, None if it has ended."""
    try:
        return os.readlink(f"/proc/{pid}/ns/{kind}")
    except OSError:
        return None


def is_alive(pid: int) -> bool:
    """Return whether a process still runs; one that only waits to be reaped does not."""
    status = peek(pid, "stat").rpartition(b")")[2].split()
    return bool(status) and status[0] not in (b"Z", b"X")


def keepers(cluster: str) -> list[Host]:
    """Return the switch and the hosts of a cluster that are up, in order."""
    prefix = title(cluster, "")
    titles = {pid: peek(pid, "cmdline").split(b"\0")[0].decode(errors="replace") for pid in processes()}
    found = (Host(text.removeprefix(prefix), pid) for pid, text in titles.items() if text.startswith(prefix))
    return sorted(found, key=lambda host: host.number)


def hosts_of(cluster: str) -> list[Host]:
    """Return the hosts of a cluster, without the switch; raise Failed if it is not up."""
    found = [host for host in keepers(cluster) if host.name != SWITCH]
    if not found:
        raise Failed(f"The cluster {cluster!r} is not up; `emulated-cluster up 4` brings up four hosts.")
    return found


def find_host(cluster: str, wanted: str) -> Host:
    """Return the host that a number, a name or an address means."""
    found = hosts_of(cluster)
    for host in found:
        if wanted in (str(host.number), host.name, host.address):
            return host
    raise Failed(f"There is no host {wanted!r}; there are {found[0].name} to {found[-1].name}.")


# ---- bringing up -------------------------------------------------------------------------------------------------


def require_root() -> None:
    """Raise NotAllowed unless this process is root's: others cannot even see which processes are a host's."""
    if os.geteuid() != 0:
        raise NotAllowed("Emulated hosts need root; run this with sudo.")


def require_tools(tools: Mapping[str, str]) -> None:
    """Raise NotAllowed unless the machine has the programs, each given with its package."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        packages = " ".join(sorted({tools[tool] for tool in missing}))
        raise NotAllowed(f"{', '.join(missing)} not found; on Debian and Ubuntu: apt install {packages}.")


def require_permission() -> None:
    """Raise NotAllowed unless this process may make namespaces, bridges and mounts here."""
    require_tools(TOOLS)
    try:
        run(*UNSHARE, "sh", "-c", TRIAL_SCRIPT)
    except Failed as failure:
        raise NotAllowed(f"This machine lets nobody make network namespaces here: {failure}") from failure


def start(cluster: str, num_hosts: int, rate: str | None) -> None:
    """Start the switch and the hosts, and join them by cables of `rate` (as `tc` writes it; None: unlimited)."""
    (STATE / cluster / "sys").mkdir(parents=True)
    names = [f"node{number}" for number in range(1, num_hosts + 1)]
    lines = [f"{Host(name, 0).address} {name}" for name in names]
    (STATE / cluster / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
    switch = start_keeper(cluster, SWITCH)
    switch.run("ip", "link", "add", "name", "br0", "type", "bridge")
    switch.run("ip", "link", "set", "br0", "up")
    for name in names:
        plug_in(switch, start_keeper(cluster, name), rate)


def start_keeper(cluster: str, name: str) -> Host:
    """Start the process that keeps a host's namespaces, and wait until its mounts are there."""
    folder = STATE / cluster
    arguments = (title(cluster, name), name, str(folder / "hosts"), str(folder / "sys"))
    try:
        pid = lasting(cluster, *UNSHARE, "bash", "-c", KEEPER_SCRIPT, "bash", *arguments)
    except Failed as failure:
        raise Failed(f"The host {name} did not come up: {failure}.") from None
    return Host(name, pid)


def lasting(cluster: str, *command: str) -> int:
    """Start a process of a cluster that outlives us, wait until it says "up", and return its id.

    Raises Failed with what it said otherwise.
    """
    process = subprocess.Popen(
        command,
        env={**os.environ, "MPISPEC_CLUSTER": cluster},  # by which `down` knows it once the keepers are gone
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stderr is not None
    if process.stdout.readline() != "up\n":
        raise Failed(process.stderr.read().strip())
    return process.pid


def plug_in(switch: Host, host: Host, rate: str | None) -> None:
    """Join a host to the switch by a cable, shaped in both directions if `rate` is given."""
    port = f"port{host.number}"
    peer = ("peer", "name", "eth0", "netns", str(host.pid))
    switch.run("ip", "link", "add", "name", port, "type", "veth", *peer)
    switch.run("ip", "link", "set", port, "master", "br0", "up")
    host.run("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
    host.run("ip", "link", "set", "eth0", "up")
    if rate is not None:
        shape = ("root", "tbf", "rate", rate, "burst", "128kb", "latency", "20ms")
        switch.run("tc", "qdisc", "add", "dev", port, *shape)
        host.run("tc", "qdisc", "add", "dev", "eth0", *shape)


def rate_of(host: Host) -> float | None:
    """Return the rate that a host's cable is shaped to in Mbit/s, None if it is not."""
    for discipline in json.loads(host.run("tc", "-j", "qdisc", "show", "dev", "eth0")):
        if discipline["kind"] == "tbf":
            return float(discipline["options"]["rate"]) * 8 / 1e6  # tc counts bytes
    return None


def self_check(cluster: str) -> None:
    """Raise Failed unless the hosts are apart from each other and reach the first one by its name."""
    found = hosts_of(cluster)
    for kind in ("net", "uts", "ipc", "mnt"):
        if len({namespace(host.pid, kind) for host in found} | {namespace("self", kind)}) != len(found) + 1:
            raise Failed(f"Two hosts share a {kind} namespace; take the cluster down and up again.")
    if len({os.stat(f"/proc/{host.pid}/root/dev/shm").st_dev for host in found}) != len(found):
        raise Failed("Two hosts share /dev/shm; take the cluster down and up again.")
    # A refused connection is an answer: the name was found, the packet went there and another came back.
    script = f"import socket; print(socket.socket().connect_ex(({found[0].name!r}, 9)))"
    for host in found:
        code = int(host.run(sys.executable, "-c", script))
        if code != errno.ECONNREFUSED:
            raise Failed(f"{host.name} cannot reach {found[0].name}: {os.strerror(code)}.")


# ---- taking down -------------------------------------------------------------------------------------------------


def residents(cluster: str) -> list[int]:
    """Return the living processes of a cluster, also those that `exec` started on a host that lost its keeper."""
    home = namespace("self", "net")
    spaces = {namespace(host.pid, "net") for host in keepers(cluster)} - {home, None}
    token = f"\0MPISPEC_CLUSTER={cluster}\0".encode()

    def belongs(pid: int) -> bool:
        space = namespace(pid, "net")
        return space in spaces or (space not in (home, None) and token in b"\0" + peek(pid, "environ"))

    return [pid for pid in processes() if belongs(pid) and is_alive(pid)]


def end_processes(cluster: str) -> None:
    """End every process of a cluster, and with them its hosts; raise Failed if one does not end."""
    end = time.monotonic() + DEADLINE
    while alive := residents(cluster):
        if time.monotonic() > end:
            raise Failed(f"The processes {alive} do not end; `ps` may say why.")
        for pid in alive:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)
    shutil.rmtree(STATE / cluster, ignore_errors=True)
    if STATE.is_dir() and not any(STATE.iterdir()):
        STATE.rmdir()
