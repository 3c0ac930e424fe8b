"""Who guesses, as the command line says it."""

from __future__ import annotations

from mpispec.runtime.group import JobError


def read_hit_rate(proposer: str) -> float:
    """Return H of `oracle:H`. Raises JobError."""
    try:
        rate = float(proposer.removeprefix("oracle:"))
    except ValueError:
        rate = -1.0
    if not 0.0 <= rate <= 1.0:
        raise JobError(f"--proposer {proposer} needs a hit rate from 0 to 1, like oracle:0.8.")
    return rate


def read_ladder(ladder: str | None, draft: str | None) -> tuple[str, ...]:
    """Return the models that guess, the smallest first; the draft alone where there is no ladder. Raises JobError."""
    if ladder is None:
        return (draft,) if draft is not None else ()
    if draft is not None:
        raise JobError("Give the models that guess with --draft or with --ladder, not with both.")
    models = tuple(name.strip() for name in ladder.split(","))
    if not all(models):
        raise JobError(f"--ladder {ladder!r} names no model in one place; write it as M0.gguf,M1.gguf.")
    return models
