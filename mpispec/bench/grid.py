"""How `auto` does against every fixed strategy, over pipelines, hit rates, costs of rows and links; all synthetic.

python -m mpispec.bench.grid --tokens 200
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from typing import Any

import click

from mpispec.sim.costs import ROWS_FACTORS
from mpispec.sim.script import Hits
from mpispec.sim.study import Study, compare

STAGES = (2, 4, 8, 14)
HITS = (0.2, 0.5, 0.8, 0.95)
LINKS = {"fast": (0.0, math.inf), "slow": (0.005, 12.5e6)}
"""Seconds of latency and bytes a second, beside stages of 10 ms."""
FIXED = ("plain", "sync", "pipeinfer", "specpipe")
ASKED = 0.97
"""Share of the best fixed strategy's speed that `auto` shall reach everywhere."""


def cases() -> Iterator[tuple[str, int, float, str]]:
    """Yield rows, stages, hit rate and links of every case."""
    return itertools.product(ROWS_FACTORS, STAGES, HITS, LINKS)


def measure(rows: str, stages: int, hit: float, link: str, tokens: int, seed: int, draft_s: float) -> dict[str, Any]:
    """Return the speed-ups over plain of one case, and the share of the best fixed one that `auto` reaches."""
    latency, rate = LINKS[link]
    study = Study(
        stages,
        draft_s=draft_s,
        link_s=latency,
        link_bytes_per_s=rate,
        rows_factor=ROWS_FACTORS[rows],
        hits=Hits((hit,)),
        num_tokens=tokens,
        seed=seed,
    )
    speedups = {outcome.strategy: outcome.speedup_over_plain for outcome in compare((*FIXED, "auto"), study)}
    best = max(FIXED, key=lambda name: speedups[name])
    return {
        "rows": rows,
        "stages": stages,
        "hit": hit,
        "links": link,
        "best_fixed": best,
        "share": round(speedups["auto"] / speedups[best], 3),
        "speedups": {name: round(speedup, 2) for name, speedup in speedups.items()},
    }


@click.command()
@click.option("--tokens", type=click.IntRange(min=50), default=200, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the script: which guesses are right.")
@click.option("--draft-s", type=float, default=0.001, show_default=True, help="Of a draft step; a stage takes 0.01.")
def main(tokens: int, seed: int, draft_s: float) -> None:
    """Print every case as JSON, one a line, then how many of them reach what is asked."""
    shares = []
    for case in cases():
        found = measure(*case, tokens, seed, draft_s)
        shares.append(found["share"])
        click.echo(json.dumps(found))
    reached = sum(share >= ASKED for share in shares)
    click.echo(f"{reached} of {len(shares)} cases reach {ASKED}; the least is {min(shares)}.", err=True)


if __name__ == "__main__":
    main()
