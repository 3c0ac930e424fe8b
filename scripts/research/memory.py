"""What a rank holds in memory after an answer; target: its layers, its cache and 150 MB.

Started by scripts/bench-memory.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import click

from mpispec.compute.llama_traits import SPARE_CELLS
from mpispec.models import default, gguf_file, registry
from mpispec.runtime.plan import make_plan
from mpispec.runtime.setup import DEFAULT_CONTEXT, Setup
from research.served import served

ALLOWANCE = 150_000_000
"""Bytes for the interpreter, its libraries, buffers and everything else."""
_F16 = 2


@dataclass(frozen=True, slots=True)
class Held:
    """One rank, in bytes."""

    rank: int
    roles: list[str]
    resident: int
    layers: int
    """Weights of its layers, with the embedding on the first stage and the projection on the last."""
    cache: int
    other: int
    """Resident without layers and cache; to be at most `ALLOWANCE`."""


def cell_bytes(model: gguf_file.GgufFile, architecture: str) -> int:
    """Return the bytes of one cell of one layer: a key and a value, f16, for each head of theirs."""
    heads = model.get(f"{architecture}.attention.head_count", int) or 1
    width = model.get(f"{architecture}.embedding_length", int) or 0
    kv_heads = model.get(f"{architecture}.attention.head_count_kv", int) or heads
    key = model.get(f"{architecture}.attention.key_length", int) or width // heads
    value = model.get(f"{architecture}.attention.value_length", int) or width // heads
    return kv_heads * (key + value) * _F16


@click.command()
@click.option("-n", "num_ranks", type=click.IntRange(min=1), default=4, show_default=True, help="Ranks.")
def main(num_ranks: int) -> None:
    """Compare the resident memory of each rank with what it has to hold."""
    summary = registry.inspect(default.resolve(None))
    context = min(DEFAULT_CONTEXT, summary.context)
    setup = Setup(summary, None, make_plan(num_ranks, summary, has_draft=False), (), (), context)
    per_layer = cell_bytes(gguf_file.read(summary.path), summary.architecture) * (context + SPARE_CELLS)
    with served(num_ranks) as job:
        tokens = job.complete("The capital of France is", 64)
        resident = [rank.memory_info().rss for rank in job.ranks]
    held = []
    for rank, size in enumerate(resident):
        layers = setup.bytes_of(rank)
        cache = per_layer * sum(len(stage.layers) for stage in setup.plan.stages_of(rank))
        held.append(Held(rank, setup.plan.roles_of(rank), size, layers, cache, size - layers - cache))
    click.echo(json.dumps({"ranks": [asdict(one) for one in held], "allowance": ALLOWANCE}))
    most = max(one.other for one in held)
    click.echo(
        f"After {tokens} tokens a rank holds at most {most / 1e6:.0f} MB apart from its layers and cache; "
        f"{ALLOWANCE / 1e6:.0f} MB are allowed.",
        err=True,
    )
