"""CPU shares of emulated hosts: a cgroup a host, version 1 of the controllers.

A plain quota is not a slow machine: throttling acts at scheduler ticks and an idle host saves up its whole quota, so
bursts below 2 ms run at full speed. `smooth` pins hosts to cores, keeps a burner in each host's group and wakes the
scheduler 4,000 times a second; then a share of 0.24 is within 0.23 to 0.30 for bursts from 0.25 to 32 ms.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from emulation.errors import Failed, NotAllowed
from emulation.hosts import DEADLINE, STATE, SWITCH, Host, hosts_of, keepers, lasting, require_tools, run

CGROUPS = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpu", "cpuacct", "cpuset")
DEFAULT_PERIOD = 4200
"""Microseconds of a quota's period: about one tick of a 250 Hz kernel."""
LEAST_QUOTA = 1000
"""Microseconds; the kernel gives no smaller one."""
TICK = 250
"""Microseconds between two looks of the scheduler at the quotas, when smooth."""
HELPER_SOURCE = Path(__file__).resolve().parent / "slowcore.c"


def available() -> bool:
    """Return whether the controllers are mounted and writable."""
    return all(os.access(CGROUPS / name / "cgroup.procs", os.W_OK) for name in CONTROLLERS)


def require() -> None:
    """Raise NotAllowed unless shares can be given here."""
    if not available():
        wanted = ", ".join(CONTROLLERS)
        raise NotAllowed(f"CPU shares and seconds need version 1 of the cgroup controllers {wanted}; do without here.")


def require_smoothing() -> None:
    """Raise NotAllowed unless the helper that smooths shares can be built here."""
    require_tools({"cc": "gcc libc6-dev"})


def group(controller: str, cluster: str, host: str = "") -> Path:
    """Return a host's folder under a controller, or the cluster's."""
    return CGROUPS / controller / "mpispec" / cluster / host


def make(cluster: str, pinned: bool) -> None:
    """Make a CPU group for every host; `pinned` gives each one core, in turn."""
    cores = sorted(os.sched_getaffinity(0))
    for host in hosts_of(cluster):
        for controller in CONTROLLERS:
            # The second of two controllers in one tree, as cpu and cpuacct often are, finds the folder made.
            group(controller, cluster, host.name).mkdir(parents=True, exist_ok=True)
        fill_cpuset(group("cpuset", cluster, host.name))
        if pinned:
            core = cores[(host.number - 1) % len(cores)]
            (group("cpuset", cluster, host.name) / "cpuset.cpus").write_text(str(core))


def fill_cpuset(folder: Path) -> None:
    """Give a new cpuset what its parent has, the parent first: an empty one takes no process."""
    if folder != CGROUPS / "cpuset":
        fill_cpuset(folder.parent)
        for entry in ("cpuset.mems", "cpuset.cpus"):
            (folder / entry).write_text((folder.parent / entry).read_text())


def join(cluster: str, host: str, pid: int, controllers: tuple[str, ...] = CONTROLLERS) -> None:
    """Put a process, and all that it will start, into a host's group."""
    for controller in controllers:
        (group(controller, cluster, host) / "cgroup.procs").write_text(str(pid))


def give(cluster: str, share: float | None, period: int, one: Host | None = None) -> None:
    """Give every host, or one, `share` of a core, None for as much as there is; `period` is in microseconds.

    Raises Failed where that is less than the kernel gives.
    """
    if share is not None and round(share * period) < LEAST_QUOTA:
        least = -(-LEAST_QUOTA // share)
        raise Failed(
            f"A share of {share:g} in {period} us is below the kernel's least; say --period {least:.0f} or more."
        )
    for host in hosts_of(cluster) if one is None else [one]:
        folder = group("cpu", cluster, host.name)
        (folder / "cpu.cfs_quota_us").write_text("-1")
        if share is not None:
            (folder / "cpu.cfs_period_us").write_text(str(period))
            (folder / "cpu.cfs_quota_us").write_text(str(round(share * period)))


def asked(cluster: str, host: str) -> float | None:
    """Return the share of a core that a host was given, None for all."""
    folder = group("cpu", cluster, host)
    if not available() or (quota := int((folder / "cpu.cfs_quota_us").read_text())) < 0:
        return None
    return quota / int((folder / "cpu.cfs_period_us").read_text())


def helper_of(cluster: str) -> Path:
    """Return where the program is that smooths a cluster's shares, if they are smoothed."""
    return STATE / cluster / "slowcore"


def smooth(cluster: str) -> None:
    """Start the burners and the ticker; they live on the hosts and end with them."""
    helper = str(helper_of(cluster))
    run("cc", "-O2", "-pthread", "-o", helper, str(HELPER_SOURCE))
    (group("cpu", cluster) / "cpu.shares").write_text("8192")
    for host in keepers(cluster):
        if host.name == SWITCH:
            spawn(cluster, host, helper, "tick", str(TICK))
        else:  # not into cpuacct, where only the host's own work counts
            join(cluster, host.name, spawn(cluster, host, helper, "burn"), ("cpu", "cpuset"))


def spawn(cluster: str, host: Host, *command: str) -> int:
    """Start a helper on a host that outlives us, wait until it says that it is up, and return its process id."""
    try:
        return lasting(cluster, *host.command(*command))
    except Failed as failure:
        raise NotAllowed(f"Shares cannot be smooth here ({failure}); do without --fine.") from None


def seconds_used(cluster: str, host: str) -> float:
    """Return the CPU seconds that a host's own processes have used; raise NotAllowed if burners count as well."""
    if helper_of(cluster).exists() and os.path.samefile(CGROUPS / "cpu", CGROUPS / "cpuacct"):
        raise NotAllowed(
            "CPU seconds would count the burners of --fine, for cpu and cpuacct are one tree here; do without --fine."
        )
    return int((group("cpuacct", cluster, host) / "cpuacct.usage").read_text()) / 1e9


def remove(cluster: str) -> None:
    """Remove the groups of a cluster whose processes have ended."""
    for controller in CONTROLLERS:
        own = group(controller, cluster)
        for folder in [entry for entry in own.glob("*") if entry.is_dir()]:
            remove_folder(folder)
        remove_folder(own)
        if own.parent.is_dir() and not any(entry.is_dir() for entry in own.parent.iterdir()):
            remove_folder(own.parent)


def remove_folder(folder: Path) -> None:
    """Remove one group; the kernel needs a moment after its last process has ended."""
    end = time.monotonic() + DEADLINE
    while folder.is_dir():
        try:
            folder.rmdir()
        except OSError as error:
            if time.monotonic() > end:
                raise Failed(f"The CPU group {folder} cannot be removed; its cgroup.procs says why.") from error
            time.sleep(0.02)
