"""Drafters that live in the head and cost it next to nothing; alone, or mixed with a draft or exits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from mpispec.core.strategy import Drafter
from mpispec.drafters.beam import Beam
from mpispec.drafters.mixed import Mixed
from mpispec.drafters.suffix import Suffix
from mpispec.drafters.suffix_store import SuffixStore

IN_HEAD: Mapping[str, Callable[[SuffixStore], Drafter]] = {
    "ngram": lambda store: Beam(Suffix(store)),
    "draft+ngram": lambda store: Mixed(Suffix(store)),
    "exit+ngram": lambda store: Mixed(Suffix(store)),
}
"""The head's part of each `--drafter`, made for a request; a mix names the other drafter first."""


def in_head(store: SuffixStore | None) -> dict[str, Callable[[], Drafter]]:
    """Return the drafters of a head whose requests share what is in `store`; None: each has its own text alone."""

    def made(make: Callable[[SuffixStore], Drafter]) -> Drafter:
        return make(SuffixStore() if store is None else store)

    return {name: partial(made, make) for name, make in IN_HEAD.items()}
