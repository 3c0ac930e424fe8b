"""Drafters that live in the head and cost it next to nothing; alone, or mixed with a draft or exits."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mpispec.core.strategy import Drafter
from mpispec.drafters.chain import Chain
from mpispec.drafters.mixed import Mixed
from mpispec.drafters.ngram import NGram

IN_HEAD: Mapping[str, Callable[[], Drafter]] = {
    "ngram": lambda: Chain(NGram()),
    "draft+ngram": lambda: Mixed(NGram()),
    "exit+ngram": lambda: Mixed(NGram()),
}
"""The head's part of each `--drafter`; a mix names the other drafter first."""
