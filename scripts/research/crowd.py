"""Many requests at once: `auto` against every fixed strategy, by load, acceptance rate and cost of rows; synthetic.

python scripts/research crowd [--json]

Counted are the tokens between the last first token and the first last one, while all requests are active. A case is
drawn several times: which draft tokens are right is luck, and in one draw of eight answers of 40 tokens it moves a
strategy by a tenth. The fewer requests, the more draws, so that a case is never less than so many answers.
"""

from __future__ import annotations

import itertools
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import click

from mpispec.sim.costs import ROWS_FACTORS
from mpispec.sim.script import Acceptance
from mpispec.sim.study import Study, answers_of

LOADS = (2, 8, 32)
STAGES = (4, 8)
ACCEPTANCE_RATES = (0.3, 0.5, 0.8, 0.85)
ROWS = ("flat", "cpu8", "gpu4", "moe")
FIXED = ("plain", "sync", "pipeinfer", "specpipe")
ASKED = 0.98
"""Share of the best fixed strategy's throughput that `auto` is to reach everywhere."""

Case = tuple[str, int, int, float]


def throughput(strategy: str, study: Study) -> float:
    """Return the tokens a second, in virtual time, that all requests together get while all are active."""
    answers = answers_of(strategy, study)
    begin, end = max(answer.times[0] for answer in answers), min(answer.times[-1] for answer in answers)
    assert begin < end, "answers are so short that the first ends before the last begins"
    return sum(begin < when <= end for answer in answers for when in answer.times) / (end - begin)


def measured(case: Case, tokens: int, answers: int) -> dict[str, Any]:
    """Return the throughput of every strategy in one case: the median of its draws."""
    rows, stages, load, acceptance = case
    study = Study(
        stages,
        rows_factor=ROWS_FACTORS[rows],
        acceptance=Acceptance((acceptance,)),
        num_tokens=tokens,
        num_requests=load,
    )
    studies = [replace(study, seed=seed) for seed in range(-(-answers // load))]
    found = {strategy: [throughput(strategy, drawn) for drawn in studies] for strategy in (*FIXED, "auto")}
    medians = {strategy: round(median(draws), 2) for strategy, draws in found.items()}
    best = max(FIXED, key=lambda strategy: medians[strategy])
    ratios = [mine / theirs for mine, theirs in zip(found["auto"], found[best], strict=True)]
    case_is = {"rows": rows, "stages": stages, "requests": load, "acceptance": acceptance, "draws": len(studies)}
    spread = {"auto_over_best": median(ratios), "least": min(ratios), "most": max(ratios)}
    return {**case_is, **medians, "best": best, **{name: round(ratio, 3) for name, ratio in spread.items()}}


@click.command()
@click.option("--tokens", default=80, show_default=True, help="Of each answer.")
@click.option("--answers", default=24, show_default=True, help="Of each case at least; as many draws as that takes.")
@click.option("--json", "is_json", is_flag=True)
def main(tokens: int, answers: int, is_json: bool) -> None:
    """Compare strategies under load."""
    cases = list(itertools.product(ROWS, STAGES, LOADS, ACCEPTANCE_RATES))
    with ProcessPoolExecutor() as pool:
        found = list(pool.map(partial(measured, tokens=tokens, answers=answers), cases))
    reached = sum(case["auto_over_best"] >= ASKED for case in found)
    if is_json:
        click.echo(json.dumps({"asked": ASKED, "reached": reached, "of": len(found), "cases": found}, indent=1))
        return
    for case in found:
        click.echo(" ".join(f"{key}={value}" for key, value in case.items()))
    click.echo(f"{reached} of {len(found)} cases at {ASKED} of the best fixed strategy or above (synthetic).")
