"""Distinct integer types, so that mypy tells a run from a node; who is addressed by them."""

from __future__ import annotations

from enum import IntEnum
from typing import NewType

RequestId = NewType("RequestId", int)
"""One prompt and its continuation; unique for the life of the head."""
RunId = NewType("RunId", int)
"""One pass of some rows through all stages; increases by one with each dispatch."""
NodeId = NewType("NodeId", int)
"""One token of one request's tree; not reused before the request is closed."""
SeqId = NewType("SeqId", int)
"""A sequence id of the cache: a label that cells carry (design, Token trees)."""
Token = NewType("Token", int)
"""An index into the vocabulary."""
Pos = NewType("Pos", int)
"""Absolute index of a token in its request, 0 for the first prompt token."""
Actor = NewType("Actor", int)
"""Address of a role. 0 is the head, 1..D its stages in layer order, D+1 the draft.

In a cascade D+1 is a level: the head of a pipeline of its own, followed by its stages and what drafts for it. Last come
the second addresses of the target's stages, for prompts, where they go a way of their own (core/lanes.py).
"""

HEAD = Actor(0)
"""The head whose tokens are final; a level is a further head (core/level.py)."""

FANOUT = 8
"""Most stages to which a head sends a cancel itself; with more, each stage passes it on to as many."""


class Plane(IntEnum):
    """The three kinds of messages; each is FIFO between two actors, nothing is ordered across them."""

    DATA = 0
    """Runs and results, in dispatch order; KV cache operations travel in runs (law 3)."""
    CONTROL = 1
    """Cancels and credits: may overtake data, and ignoring one must not change the output."""
    DRAFT = 2
    """Draft tokens, and what was accepted, for the draft to follow."""


def relays(actor: Actor, head: Actor, num_stages: int) -> list[Actor]:
    """Return the stages to which `actor` sends a cancel: its children in a heap with `FANOUT` children a node.

    So a head of hundreds of stages sends eight messages and not hundreds.
    """
    first = FANOUT * (actor - head) + 1
    return [Actor(head + stage) for stage in range(first, min(first + FANOUT, num_stages + 1))]
