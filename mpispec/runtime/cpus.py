"""Whether every rank's CPU has what its llama.cpp was built to use."""

from __future__ import annotations

import msgpack

from mpispec.compute import cpu_needs
from mpispec.runtime.group import Group, JobError, gather
from mpispec.transport.environment import hostname


def check_cpus(group: Group) -> None:
    """Raise JobError on all ranks, naming the hosts, if any would die of an illegal instruction. Collective.

    To be called before anything loads libllama: even that can be too much for a CPU.
    """
    everyone = [msgpack.unpackb(theirs) for theirs in gather(group, msgpack.packb([hostname(), cpu_needs.missing()]))]
    hosts = [host for host, missing in everyone if missing]
    if hosts:
        flags = next(missing for _, missing in everyone if missing)
        raise JobError(cpu_needs.sentence(sorted(set(hosts)), flags))
