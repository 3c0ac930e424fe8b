"""How long a user who decodes waits for a token while another's long prompt is read, by cost of rows; synthetic.

python scripts/research reading [--exactness exact|throughput] [--json]

In virtual time, without speculation, on four stages of 10 ms a row.
"""

from __future__ import annotations

import itertools
import json

import click

from mpispec.core.ids import RequestId
from mpispec.sim.costs import ROWS_FACTORS
from mpispec.sim.script import Script
from mpispec.sim.study import MOST_STEPS, PROMPT_TOKENS, Study, cluster_of, submission, uncollected

ROWS = ("flat", "cpu8", "moe", "gpu4")
ARRIVAL_S = 1.0
"""When the long prompt comes."""
USER, READER = RequestId(0), RequestId(1)


def waited(rows: str, prompt: int, tokens: int, is_exact: bool, who: tuple[RequestId, ...]) -> tuple[float, float]:
    """Return the user's longest gap between tokens and the time of reading, in seconds; 0 for who is absent."""
    study = Study(rows_factor=ROWS_FACTORS[rows], num_tokens=prompt + tokens, num_requests=2, is_exact=is_exact)
    script = Script.drawn(2, prompt + tokens + 2, 0)
    cluster = cluster_of("plain", study, script)
    works = {USER: (0.0, PROMPT_TOKENS, tokens), READER: (ARRIVAL_S, prompt, 1)}
    for request in who:
        when, given, wanted = works[request]
        text = script.texts[request]
        cluster.at(when, submission("plain", request, text[:given], wanted))
    with uncollected():
        cluster.run(MOST_STEPS)
    times, read = cluster.answers[USER].times, cluster.answers[READER].times
    gap = max((after - before for before, after in itertools.pairwise(times)), default=0.0)
    return gap, read[0] - ARRIVAL_S if read else 0.0


def compared(rows: str, prompt: int, tokens: int, is_exact: bool) -> dict[str, float]:
    """Return the user's longest gap and the time of reading as multiples of what each is alone."""
    gap_alone, _ = waited(rows, prompt, tokens, is_exact, (USER,))
    _, read_alone = waited(rows, prompt, tokens, is_exact, (READER,))
    gap, read = waited(rows, prompt, tokens, is_exact, (USER, READER))
    return {"gap": round(gap / gap_alone, 2), "reading": round(read / read_alone, 2)}


@click.command()
@click.option("--prompt", default=2048, show_default=True, help="Tokens of the long prompt.")
@click.option("--tokens", default=200, show_default=True, help="Of the user's answer.")
@click.option("--exactness", type=click.Choice(["exact", "throughput"]), default="exact", show_default=True)
@click.option("--json", "is_json", is_flag=True)
def main(prompt: int, tokens: int, exactness: str, is_json: bool) -> None:
    """Compare the user's longest gap, and the reading, with what each has alone."""
    found = {rows: compared(rows, prompt, tokens, exactness == "exact") for rows in ROWS}
    if is_json:
        click.echo(json.dumps({"prompt": prompt, "exactness": exactness, "to_alone": found}))
        return
    for rows, ratios in found.items():
        click.echo(f"{rows:5} longest gap {ratios['gap']:.2f}, reading {ratios['reading']:.2f} of what it is alone")
