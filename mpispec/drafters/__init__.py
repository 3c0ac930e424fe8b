"""Drafters that live in the head and cost it next to nothing; alone, or mixed with a draft or exits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from mpispec.core.messages import Sampling
from mpispec.core.strategy import Drafter
from mpispec.drafters.beam import Beam
from mpispec.drafters.grammatical import Grammatical, Rules
from mpispec.drafters.mixed import Mixed
from mpispec.drafters.predictor import Predictor
from mpispec.drafters.suffix import Suffix
from mpispec.drafters.suffix_store import SuffixStore


class InHead(NamedTuple):
    """The head's part of a `--drafter`, made for a request."""

    predictor: Callable[[SuffixStore], Predictor]
    drafter: Callable[[Predictor], Drafter]


IN_HEAD: Mapping[str, InHead] = {
    "ngram": InHead(Suffix, Beam),
    "draft+ngram": InHead(Suffix, Mixed),
    "exit+ngram": InHead(Suffix, Mixed),
}
"""By name; a mix names the other drafter first."""

Compile = Callable[[str], Callable[[], Rules | None]]
"""Begins to compile a grammar; what it returns says None until that is done."""
Make = Callable[[Sampling], Drafter]
"""Makes a drafter for a request, which may have a grammar."""


def in_head(store: SuffixStore | None, compile_: Compile | None = None) -> dict[str, Make]:
    """Return the drafters of a head whose requests share what is in `store`; None: each has its own text alone.

    Without `compile_` they draft whatever a grammar says.
    """

    def predictor(part: InHead) -> Predictor:
        return part.predictor(SuffixStore() if store is None else store)

    return {name: partial(_made, part.drafter, partial(predictor, part), compile_) for name, part in IN_HEAD.items()}


def alone(predictor: Callable[[], Predictor], compile_: Compile | None = None) -> Make:
    """Return what makes drafters of one predictor alone."""
    return partial(_made, Beam, predictor, compile_)


def _made(
    drafter: Callable[[Predictor], Drafter],
    predictor: Callable[[], Predictor],
    compile_: Compile | None,
    sampling: Sampling,
) -> Drafter:
    if compile_ is None or not sampling.grammar:
        return drafter(predictor())
    return drafter(Grammatical(predictor(), compile_(sampling.grammar), sampling.begins))
