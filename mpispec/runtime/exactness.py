"""Whether requests that run at once may change each other's bits: as the user says, or as costs say (ADR 0036).

`exact`: a request's text is that of the model alone, whatever the other requests. `throughput`: requests share cells
and runs, so that low bits may differ where those of a backend depend on the order of cells or on the rows of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from mpispec.compute.factory import is_order_exact
from mpispec.models.registry import ModelSummary

Exactness = Literal["exact", "throughput"]
EXACTNESS = ("auto", "exact", "throughput")
"""What a user may ask for."""
_FEW = 4
"""Requests at once that are exact on any number of stages."""
_MANY = 32
"""Requests at once where rows of several are computed together; how many there are cells for is another matter."""


def usual_parallel(asked: str) -> int:
    """Return how many requests may run at once where the user does not say it."""
    return _MANY if asked == "throughput" else _FEW


def chosen(asked: str, parallel: int, num_stages: int) -> Exactness:
    """Return what a job of at most `parallel` requests at once keeps to.

    As many requests as there are stages fill these with runs of one row, so that computing the rows of several in one
    run wins nothing; for a few it wins too little to give the promise up.
    """
    if asked == "auto":
        return "exact" if parallel <= max(num_stages, _FEW) else "throughput"
    return "exact" if asked == "exact" else "throughput"


def num_contexts(exactness: Exactness, parallel: int, forms: Sequence[ModelSummary]) -> int:
    """Return how many caches a stage of the target has: one for each request where exactness takes that."""
    return parallel if exactness == "exact" and not is_order_exact(forms) else 1
