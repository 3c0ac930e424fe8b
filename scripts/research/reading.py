"""How long a user who decodes waits for a token while another's long prompt is read, by cost of rows; synthetic.

python scripts/research reading [--exactness exact|throughput] [--prompt TOKENS] [--users NUMBER] [--json]

In virtual time, without speculation, on four stages of 10 ms a row; by default with both kinds of exactness.
"""

from __future__ import annotations

import itertools
import json

import click

from mpispec.core.ids import RequestId
from mpispec.core.row_times import interpolated
from mpispec.sim.costs import ROWS_FACTORS
from mpispec.sim.script import Script
from mpispec.sim.study import MOST_STEPS, PROMPT_TOKENS, Study, cluster_of, submission, uncollected

ROWS = {
    **{name: ROWS_FACTORS[name] for name in ("flat", "cpu8", "moe", "gpu4")},
    "free8": interpolated({1: 1.0, 8: 1.0, 64: 8.0}),
    "gpu": interpolated({1: 1.0, 16: 1.1, 64: 1.7}),
}
"""Those of `simulate`; rows that are free up to eight, then each costs as much; and a GPU that is far from full."""
MODES = ("exact", "throughput")
ARRIVAL_S = 1.0
"""When the long prompt comes."""
READER = RequestId(0)
"""Others are users who decode."""


def waited(study: Study, prompt: int, is_read: bool, num_users: int) -> tuple[float, float]:
    """Return the longest gap between tokens of a user and the time of reading, in seconds; 0 for who is absent."""
    users = [RequestId(number) for number in range(1, num_users + 1)]
    script = Script.drawn(1 + num_users, study.num_tokens + 2, 0)
    cluster = cluster_of("plain", study, script)
    works = dict.fromkeys(users, (0.0, PROMPT_TOKENS, study.num_tokens - prompt))
    if is_read:
        works[READER] = (ARRIVAL_S, prompt, 1)
    for request, (when, given, wanted) in works.items():
        cluster.at(when, submission("plain", request, script.texts[request][:given], wanted))
    with uncollected():
        cluster.run(MOST_STEPS)
    times, read = [cluster.answers[user].times for user in users], cluster.answers[READER].times
    gap = max((after - before for each in times for before, after in itertools.pairwise(each)), default=0.0)
    return gap, read[0] - ARRIVAL_S if read else 0.0


def compared(rows: str, prompt: int, tokens: int, mode: str, num_users: int) -> dict[str, float]:
    """Return the users' longest gap and the time of reading as multiples of what each is alone."""
    study = Study(
        rows_factor=ROWS[rows], num_tokens=prompt + tokens, num_requests=1 + num_users, is_exact=mode == "exact"
    )
    gap_alone, _ = waited(study, prompt, False, num_users)
    _, read_alone = waited(study, prompt, True, 0)
    gap, read = waited(study, prompt, True, num_users)
    return {"gap": round(gap / gap_alone, 2), "reading": round(read / read_alone, 2)}


@click.command()
@click.option("--prompt", default=2048, show_default=True, help="Tokens of the long prompt.")
@click.option("--tokens", default=200, show_default=True, help="Of a user's answer.")
@click.option("--users", default=1, show_default=True, help="Who decode meanwhile.")
@click.option("--exactness", type=click.Choice(MODES), multiple=True, default=MODES, show_default=True)
@click.option("--json", "is_json", is_flag=True)
def main(prompt: int, tokens: int, users: int, exactness: tuple[str, ...], is_json: bool) -> None:
    """Compare the users' longest gap, and the reading, with what each has alone."""
    found = {mode: {rows: compared(rows, prompt, tokens, mode, users) for rows in ROWS} for mode in exactness}
    if is_json:
        click.echo(json.dumps({"prompt": prompt, "users": users, "to_alone": found}))
        return
    for mode, by_rows in found.items():
        for rows, ratio in by_rows.items():
            gap, reading = ratio["gap"], ratio["reading"]
            click.echo(f"{mode:10} {rows:5} longest gap {gap:.2f}, reading {reading:.2f} of what it is alone")
