"""Whether the text is exactly what the model alone would write, found out when a job starts (law 6, ADR 0029).

"The model alone" is its backend's own decoding of the whole model on one host, a token at a time: for llama.cpp with
flash attention. Where stages are of two forms, or compute in several kinds of numbers, there is no such whole model:
then it is these very stages, on one request at a time with the strategy plain (ADR 0034).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mpispec.compute.base import Arithmetic
from mpispec.compute.factory import backend_of, is_order_exact
from mpispec.core.ids import Actor
from mpispec.runtime.exactness import Exactness
from mpispec.runtime.group import Group, merged
from mpispec.runtime.setup import JobOptions, Setup


@dataclass(frozen=True, slots=True)
class TextPromise:
    """What is promised of the text, and if it is nothing, why."""

    reasons: tuple[str, ...] = ()
    """Why the text may be another than that of the model alone; nothing where it may not."""
    is_mixed: bool = False
    """Whether stages are of two forms of the model."""
    exactness: Exactness = "exact"
    """What is kept to where requests run at once."""
    parallel: int = 1
    """Requests that may run at once."""
    numbers: tuple[str, ...] = ()
    """Kinds of numbers that stages compute in, where it was chosen for each; several where ranks differ."""

    @property
    def is_exact(self) -> bool:
        """Whether the text is that of the model alone; of two forms or kinds of numbers, of these stages alone."""
        return not self.reasons

    def __str__(self) -> str:
        if not self.is_exact:
            alone = "these stages alone" if self.is_mixed or len(self.numbers) > 1 else "the model alone"
            return f"may part from {alone}, because {'; and because '.join(self.reasons)}"
        if self.is_mixed:
            return "that of these stages with --strategy plain; either form alone rounds otherwise and may part from it"
        if len(self.numbers) > 1:
            kinds = " and ".join(self.numbers)
            return f"that of these stages with --strategy plain, in {kinds}; the model in one of them may part from it"
        return "that of the model alone" + (", whatever the other requests" if self.parallel > 1 else "")

    def fields(self) -> dict[str, Any]:
        """Return what `/health` and `/v1/models` say."""
        return {"is_exact": self.is_exact, "exactness": str(self), "mode": self.exactness}


def text_promise(
    group: Group, options: JobOptions, setup: Setup, arithmetic: Mapping[Actor, Arithmetic], are_rows_exact: bool
) -> TextPromise:
    """Return what all ranks together can promise. Collective.

    `arithmetic` is that of this rank's stages; `are_rows_exact` is that of the target's stages on all ranks.
    """
    mine = {actor: (each.kernels, each.is_thread_exact, each.numbers) for actor, each in arithmetic.items()}
    everyone = merged(group, mine)
    reasons = tuple(_reasons(options, setup, everyone, are_rows_exact))
    chosen = dict.fromkeys(everyone[place.actor][2] for place in setup.targets)
    numbers = tuple(each for each in chosen if each)
    return TextPromise(reasons, len(setup.forms) > 1, setup.exactness, options.parallel, numbers)


def _reasons(
    options: JobOptions, setup: Setup, everyone: Mapping[Actor, tuple[str, bool, str]], are_rows_exact: bool
) -> Iterator[str]:
    places = setup.targets
    if options.wire != "f32":
        yield f"--wire {options.wire} rounds what goes from host to host"
    if options.parallel > 1 and setup.contexts == 1 and not is_order_exact(setup.forms):
        yield (
            f"with --parallel {options.parallel} requests share cells and fill them in another order "
            "(--exactness exact gives each its own)"
        )
    for form in setup.forms if len(places) > 1 else ():
        if not form.certified:
            yield f"layer ranges of architecture {form.architecture} are not certified"
    split = [place.stage.rank for place in places if not everyone[place.actor][1]]
    if split:
        yield (
            f"llama.cpp on {_named(setup, split)} sums attention in as many pieces as it has threads "
            "(--threads 1 does not, nor does the build of scripts/setup)"
        )
    elif not are_rows_exact:
        yield "a row of these weights is computed in another way here when several rows go together"
    for form in setup.forms:
        alike = [place for place in places if place.model is form]
        other = [place.stage.rank for place in alike if everyone[place.actor][0] != everyone[alike[0].actor][0]]
        if other:
            hosts = f"{setup.hosts[alike[0].stage.rank]} and {_named(setup, other)}"
            remedy = " (scripts/setup --portable makes them alike)" if backend_of(form.path).name == "llama" else ""
            yield f"{hosts} compute with different instructions{remedy}"


def _named(setup: Setup, ranks: list[int]) -> str:
    """Return the first host of some ranks, and how many others there are."""
    hosts = list(dict.fromkeys(setup.hosts[rank] for rank in ranks))
    return hosts[0] if len(hosts) == 1 else f"{hosts[0]} and {len(hosts) - 1} more"
