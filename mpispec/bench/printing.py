"""How every benchmark shows what it found: one JSON object, or lines for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from mpispec.bench.facts import facts_sentence

json_flag = click.option("--json", "is_json", is_flag=True, help="Print one JSON object instead of a table.")


def show(found: dict[str, Any], lines: Sequence[str], is_json: bool) -> None:
    """Print the JSON object, or the lines and below them the first host's facts."""
    if is_json:
        click.echo(json.dumps(found))
        return
    click.echo("\n".join(lines))
    click.echo(facts_sentence(found["hosts"][0]), err=True)
