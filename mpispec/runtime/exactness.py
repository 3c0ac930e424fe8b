"""Whether requests at once may change each other's bits, as the user says or as it costs least (ADR 0036)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from mpispec.compute.factory import is_order_exact
from mpispec.models.registry import ModelSummary

Exactness = Literal["exact", "throughput"]
"""`exact`: a request's text is that of the model alone, whatever the other requests. `throughput`: requests share cells
and the computation of a run, so that low bits may differ where a backend's depend on that."""
EXACTNESS = ("auto", "exact", "throughput")
"""What a user may ask for."""


def chosen(asked: str, parallel: int, num_stages: int) -> Exactness:
    """Return what a job of up to `parallel` requests at once keeps to.

    As many requests as there are stages fill these with runs of one row each, so that nothing is won by computing rows
    of several together; beyond that it is.
    """
    if asked == "auto":
        return "exact" if parallel <= max(num_stages, _FEW) else "throughput"
    return "exact" if asked == "exact" else "throughput"


_FEW = 4


def num_contexts(exactness: Exactness, parallel: int, forms: Sequence[ModelSummary]) -> int:
    """Return how many caches a stage of the target has: one for each request where that is what exactness takes."""
    return parallel if exactness == "exact" and not is_order_exact(forms) else 1
