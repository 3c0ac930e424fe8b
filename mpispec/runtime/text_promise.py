"""Whether the text is exactly what the model alone would write, found out when a job starts (law 6, ADR 0029).

"The model alone" is llama.cpp's own decoding of the whole model on one host, a token at a time, with flash attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgpack

from mpispec.compute.base import Arithmetic
from mpispec.runtime.group import Group, gather
from mpispec.runtime.setup import JobOptions, Setup


@dataclass(frozen=True, slots=True)
class TextPromise:
    """What is promised of the text, and if it is nothing, why."""

    reasons: tuple[str, ...] = ()
    """Why the text may be another than that of the model alone; nothing where it may not."""

    @property
    def is_exact(self) -> bool:
        """Whether the text is that of the model alone."""
        return not self.reasons

    def __str__(self) -> str:
        if self.is_exact:
            return "that of the model alone"
        return f"may part from the model alone, because {'; and because '.join(self.reasons)}"


def text_promise(
    group: Group, options: JobOptions, setup: Setup, arithmetic: Arithmetic, are_rows_exact: bool
) -> TextPromise:
    """Return what all ranks together can promise. Collective.

    `arithmetic` is this rank's; `are_rows_exact` is that of the target's stages on all ranks.
    """
    packed = msgpack.packb([arithmetic.kernels, arithmetic.is_thread_exact])
    everyone = [msgpack.unpackb(theirs) for theirs in gather(group, packed)]
    return TextPromise(tuple(_reasons(options, setup, everyone, are_rows_exact)))


def _reasons(
    options: JobOptions, setup: Setup, everyone: list[tuple[str, bool]], are_rows_exact: bool
) -> Iterator[str]:
    ranks = [stage.rank for stage in setup.plan.stages]
    if options.wire != "f32":
        yield f"--wire {options.wire} rounds what goes from host to host"
    if options.parallel > 1:
        yield f"with --parallel {options.parallel} requests fill the cache in another order"
    if not setup.model.certified and len(ranks) > 1:
        yield f"layer ranges of architecture {setup.model.architecture} are not certified"
    split = [rank for rank in ranks if not everyone[rank][1]]
    if split:
        yield (
            f"llama.cpp on {_named(setup, split)} sums attention in as many pieces as it has threads "
            "(--threads 1 does not, nor does the build of scripts/setup)"
        )
    elif not are_rows_exact:
        yield "a row of these weights is computed in another way here when several rows go together"
    other = [rank for rank in ranks if everyone[rank][0] != everyone[ranks[0]][0]]
    if other:
        first, others = setup.hosts[ranks[0]], _named(setup, other)
        yield f"{first} and {others} compute with different instructions (scripts/setup --portable makes them alike)"


def _named(setup: Setup, ranks: list[int]) -> str:
    """Return the first host of some ranks, and how many others there are."""
    hosts = list(dict.fromkeys(setup.hosts[rank] for rank in ranks))
    return hosts[0] if len(hosts) == 1 else f"{hosts[0]} and {len(hosts) - 1} more"
