"""`auto` against every fixed strategy, over pipelines, acceptance rates, costs of rows and links; all synthetic.

python scripts/research grid             # every actor on a core of its own
python scripts/research grid --shared    # the draft and 1, 2 or 4 stages on each core

A case is several answers: which draft tokens are right is drawn, and in 200 tokens luck moves a strategy by a tenth.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from statistics import harmonic_mean
from typing import Any

import click

from mpispec.sim.costs import ROWS_FACTORS
from mpispec.sim.script import Acceptance
from mpispec.sim.study import Study, compare

STAGES = (2, 4, 8, 14)
ACCEPTANCE_RATES = (0.2, 0.5, 0.8, 0.95)
LINKS = {"fast": (0.0, math.inf), "slow": (0.005, 12.5e6)}
"""Seconds of latency and bytes a second; a stage takes 10 ms."""
FIXED = ("plain", "sync", "pipeinfer", "specpipe")
ASKED = 0.97
"""Share of the best fixed strategy's speed that `auto` is to reach everywhere."""
STAGE_S = 0.010

SHARED_STAGES = (1, 2, 4, 8)
STAGES_A_CORE = (1, 2, 4)
SHARED_ACCEPTANCE_RATES = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
DRAFTS = (0.03, 0.3)
"""Time of a step of the draft as a share of the whole target's for a row: a small one and a quarter of its weights."""
SHARED_FIXED = ("plain", "sync", "pipeinfer")
"""With the draft on a stage's core; a tree's draft tokens cost it as many rows."""

Case = tuple[dict[str, Any], Study]


def cases(tokens: int, seed: int, draft_s: float) -> Iterator[Case]:
    """Yield every pipeline whose actors have cores of their own: what it is, and the study of it."""
    for rows, stages, acceptance, link in itertools.product(ROWS_FACTORS, STAGES, ACCEPTANCE_RATES, LINKS):
        latency, rate = LINKS[link]
        study = Study(
            stages,
            STAGE_S,
            draft_s,
            link_s=latency,
            link_bytes_per_s=rate,
            rows_factor=ROWS_FACTORS[rows],
            acceptance=Acceptance((acceptance,)),
            num_tokens=tokens,
            seed=seed,
        )
        yield {"rows": rows, "stages": stages, "acceptance": acceptance, "links": link}, study


def shared_cases(tokens: int, seed: int, chain: int | None) -> Iterator[Case]:
    """Yield every pipeline with several stages a core and the draft on the first; `sync` has chains of `chain`."""
    for rows, stages, crowd, draft, acceptance in itertools.product(
        ROWS_FACTORS, SHARED_STAGES, STAGES_A_CORE, DRAFTS, SHARED_ACCEPTANCE_RATES
    ):
        if crowd <= stages:
            yield (
                {"rows": rows, "stages": stages, "stages_a_core": crowd, "draft": draft, "acceptance": acceptance},
                replace(shared_study(rows, stages, crowd, draft, acceptance, tokens, seed), chain=chain),
            )


def shared_study(
    rows: str, stages: int, crowd: int, draft: float, acceptance: float, tokens: int = 200, seed: int = 0
) -> Study:
    """Return a study of `crowd` stages on each core and, on the first, a draft of that share of the target."""
    return Study(
        stages,
        STAGE_S,
        draft * stages * STAGE_S,
        rows_factor=ROWS_FACTORS[rows],
        acceptance=Acceptance((acceptance,)),
        num_tokens=tokens,
        seed=seed,
        cores=(*(stage // crowd for stage in range(stages)), 0),
    )


def measure(study: Study, fixed: Sequence[str], answers: int = 1) -> dict[str, Any]:
    """Return the speed-ups over plain of one case, and the share of the best fixed one that `auto` reaches."""
    found: dict[str, list[float]] = {name: [] for name in (*fixed, "auto")}
    for answer in range(answers):
        for outcome in compare(tuple(found), replace(study, seed=study.seed + answer)):
            found[outcome.strategy].append(outcome.speedup_over_plain)
    speedups = {name: harmonic_mean(each) for name, each in found.items()}
    best = max(fixed, key=lambda name: speedups[name])
    return {
        "best_fixed": best,
        "share": round(speedups["auto"] / speedups[best], 3),
        "speedups": {name: round(speedup, 2) for name, speedup in speedups.items()},
    }


@click.command()
@click.option("--tokens", type=click.IntRange(min=50), default=200, show_default=True)
@click.option("--answers", type=click.IntRange(min=1), default=3, show_default=True, help="Of each case.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the script: which draft tokens are right.")
@click.option("--draft-s", type=float, default=0.001, show_default=True, help="Of a draft step; a stage takes 0.01.")
@click.option("--shared", is_flag=True, help="Draft and stages share cores; a draft step is a share of the target's.")
@click.option("--chain", type=click.IntRange(min=1), help="Of `sync` with --shared; default: the best for the rate.")
def main(tokens: int, answers: int, seed: int, draft_s: float, shared: bool, chain: int | None) -> None:
    """Print every case as JSON, one a line, then how many of them reach what is asked."""
    asked = list(shared_cases(tokens, seed, chain) if shared else cases(tokens, seed, draft_s))
    measured = partial(measure, fixed=SHARED_FIXED if shared else FIXED, answers=answers)
    shares = []
    with ProcessPoolExecutor() as pool:
        for (case, _), found in zip(asked, pool.map(measured, [study for _, study in asked]), strict=True):
            shares.append(found["share"])
            click.echo(json.dumps(case | found))
    reached = sum(share >= ASKED for share in shares)
    click.echo(f"{reached} of {len(shares)} cases reach {ASKED}; the least is {min(shares)}.", err=True)
