"""Who passes a cancel on to whom, so that a head of hundreds of stages sends eight messages and not hundreds."""

from __future__ import annotations

from mpispec.core.ids import Actor

FANOUT = 8
"""Up to so many stages the head tells each one itself."""


def relays(actor: Actor, head: Actor, num_stages: int) -> list[Actor]:
    """Return the stages that `actor` tells: its children where head and stages form a heap of `FANOUT` a node."""
    first = FANOUT * (actor - head) + 1
    return [Actor(head + stage) for stage in range(first, min(first + FANOUT, num_stages + 1))]
