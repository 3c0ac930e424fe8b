"""Guessers that live in the head and cost it next to nothing; alone, or mixed with a draft or exits."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mpispec.core.strategy import Proposer
from mpispec.proposers.beside import Beside
from mpispec.proposers.chain import Chain
from mpispec.proposers.ngram import NGram

IN_HEAD: Mapping[str, Callable[[], Proposer]] = {
    "ngram": lambda: Chain(NGram()),
    "draft+ngram": lambda: Beside(NGram()),
    "exit+ngram": lambda: Beside(NGram()),
}
"""The part that the head plays in what `--proposer` names; mixes name the other one first."""
