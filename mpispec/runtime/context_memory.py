"""How many requests at once have memory for a context each, now that all ranks have loaded (ADR 0036).

Ranks of one host share its memory, so what counts is what all of them need together, and that only they know: what a
cell takes depends on the architecture, so a loaded stage says it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

import msgpack

from mpispec.compute.host_memory import room
from mpispec.runtime.group import Group, JobError, gather
from mpispec.runtime.setup import JobOptions, Setup, num_cells
from mpispec.transport.environment import host_identity, hostname

_SHARE = 0.9
"""Of the memory that is available: buffers and logits come on top of the cells."""


class Host(NamedTuple):
    """The memory of one host, in bytes."""

    name: str
    needed: int
    """For one request more, by all stages of its ranks."""
    available: int

    @property
    def num_contexts(self) -> float:
        """Requests that it has room for, the one included that all have loaded for."""
        return 1 + int(_SHARE * self.available) // self.needed if self.needed else float("inf")


def fitted(
    options: JobOptions, group: Group, setup: Setup, needed: int, say: Callable[[str], None]
) -> tuple[JobOptions, Setup]:
    """Return the job with as many requests at once as every host has memory for, said if that is fewer than meant.

    `needed` are the bytes that one request more takes on this rank. JobError on all ranks where the user said how many
    there are to be. Collective.
    """
    if setup.contexts == 1:
        return options, setup
    mine = [hostname(), host_identity(), needed, room().n_bytes]
    everyone = [msgpack.unpackb(theirs) for theirs in gather(group, msgpack.packb(mine))]
    scarcest = min(_hosts(everyone), key=lambda host: host.num_contexts)
    if scarcest.num_contexts >= setup.contexts:
        return options, setup
    most = int(scarcest.num_contexts)
    short = (
        f"{scarcest.name} has {scarcest.available >> 20} MiB left, and each request at once beyond the first takes "
        f"{scarcest.needed / 2**20:.0f} MiB for its cells"
    )
    if not options.may_shrink:
        raise JobError(
            f"There is no memory for {setup.contexts} requests at once: {short}; use --parallel {most}, a smaller "
            "--ctx, or --exactness throughput."
        )
    say(f"requests at once: {most} instead of {setup.contexts}, for {short}; a smaller --ctx makes room for more")
    cells = num_cells(None, setup.context, most, is_shared=False)
    return replace(options, parallel=most), replace(setup, contexts=most, cells=cells)


def _hosts(ranks: Iterable[tuple[str, str, int, int]]) -> list[Host]:
    """Return the hosts of ranks, each given as name, identity, bytes needed and bytes available."""
    found: dict[str, Host] = {}
    for name, identity, needed, available in ranks:
        known = found.get(identity, Host(name, 0, available))
        found[identity] = Host(known.name, known.needed + needed, min(known.available, available))
    return [*found.values()]
