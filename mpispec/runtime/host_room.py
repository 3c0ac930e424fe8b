"""Whether every host has memory for what its ranks are to load: else the kernel would kill one of them later on."""

from __future__ import annotations

from typing import NamedTuple

import msgpack
import psutil

from mpispec.compute.host_memory import room
from mpispec.runtime.group import Group, JobError, gather
from mpispec.runtime.loading import least_bytes
from mpispec.runtime.setup import JobOptions, Setup
from mpispec.transport.environment import host_identity, hostname

_LIBRARY_BYTES = 64 << 20
"""Of llama.cpp with its vocabulary and buffers: 71 MB with the default model, on the last of two ranks."""
_MOST = 1 << 62
"""A file may claim anything."""
_MEGA = 1e6


class _Rank(NamedTuple):
    """What one rank says of itself, in bytes."""

    host: str
    identity: str
    """Of the host, whatever it is called."""
    needed: int
    """Once it has loaded, at least."""
    left: int
    """To this rank."""
    limit: str
    """What sets that, if it is not the host's memory."""
    available: int
    """On the host."""


def check_memory(options: JobOptions, group: Group, setup: Setup) -> None:
    """Raise JobError on all ranks unless each has memory for its part, and each host for all of its ranks. Collective.

    What is counted is surely needed, so what passes may still be too much; `options.insist` lets all pass, for files
    that are mapped may be larger than memory, if one does not mind the time.
    """
    needed = least_bytes(options, setup, group.rank)
    found = room()
    mine = _Rank(
        hostname(),
        host_identity(),
        min(needed + _LIBRARY_BYTES, _MOST) if needed else 0,
        *found,
        psutil.virtual_memory().available,
    )
    ranks = [_Rank(*msgpack.unpackb(theirs)) for theirs in gather(group, msgpack.packb(mine))]
    if not options.insist and (sentence := _shortage(ranks)):
        raise JobError(sentence)


def _shortage(ranks: list[_Rank]) -> str | None:
    """Return what is said of the first group of ranks that share a memory which is too small, if any is."""
    groups: dict[tuple[str, str], list[int]] = {}
    for number, rank in enumerate(ranks):
        groups.setdefault((rank.identity, rank.limit), []).append(number)
        if rank.limit:  # the host has to have room for all in any case
            groups.setdefault((rank.identity, ""), []).append(number)
    for (_, limit), members in groups.items():
        needed = sum(ranks[number].needed for number in members)
        left = min(ranks[number].left if limit else ranks[number].available for number in members)
        if needed > left:
            return _sentence(members, ranks[members[0]].host, needed, left, limit)
    return None


def _sentence(members: list[int], host: str, needed: int, left: int, limit: str) -> str:
    who = f"Rank {members[0]} on {host} needs" if len(members) == 1 else f"Ranks {_listed(members)} on {host} need"
    why = f" ({limit})" if limit else ""
    return (
        f"{who} {needed / _MEGA:.0f} MB for weights and cells, and {left / _MEGA:.0f} MB are left there{why}; "
        "give that host fewer layers with --layout, use more hosts or a smaller --ctx, or try it with --insist."
    )


def _listed(numbers: list[int]) -> str:
    return f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
