"""On which ranks llama.cpp may use a GPU."""

from __future__ import annotations

import msgpack

from mpispec.compute.llama_backend import finds_gpu
from mpispec.runtime.group import Group, JobError, gather
from mpispec.transport.environment import hostname


def gpu_layers(group: Group, wanted: int, uses_llama: bool) -> tuple[int, ...]:
    """Return by rank how many layers llama.cpp keeps on a GPU: `wanted` (-1: all), or none where it finds no GPU.

    JobError on all ranks where none that `uses_llama` finds one. Collective.
    """
    if not wanted:
        return (0,) * group.size
    mine = msgpack.packb([hostname(), uses_llama, finds_gpu()])
    everyone = [msgpack.unpackb(theirs) for theirs in gather(group, mine)]
    asked = {host for host, uses, _ in everyone if uses}
    if not any(uses and finds for _, uses, finds in everyone):
        raise JobError(no_gpu(f"on {', '.join(sorted(asked))}" if asked else "on any rank that it computes on"))
    return tuple(wanted if uses and finds else 0 for _, uses, finds in everyone)


def no_gpu(where: str) -> str:
    """Return what is said to who asks for GPUs where llama.cpp finds none."""
    return (
        f"--gpu-layers: llama.cpp finds no GPU {where}; build it for GPUs with scripts/setup --gpu cuda "
        "(or hip, vulkan), or leave the option out."
    )
