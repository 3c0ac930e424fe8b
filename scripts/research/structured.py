"""JSON of many schemas at temperature 1: how many answers are valid, and whether speculation changes any.

The schemas are those of the JSON Schema Test Suite, which has some for every keyword; the source distribution of
`jsonschema` holds it: pip download --no-deps --no-binary jsonschema jsonschema==4.26.0
"""

from __future__ import annotations

import json
import urllib.error
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from mpispec.bench.errors import BenchError
from research.served import Served, served

_PROMPT = "Answer with a short example of JSON that matches this schema: {schema}"
_PLAIN = {"strategy": "plain", "drafter": "none"}


@click.command()
@click.argument("suite", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--count", default=200, show_default=True, help="Answers that are to come to their end.")
@click.option("--tokens", default=128, show_default=True, help="Most tokens of an answer.")
@click.option("--draws", default=12, show_default=True, help="Most answers to draw for a schema until one ends.")
@click.option("--end-bias", default=0.0, show_default=True, help="What makes the token likelier that ends an answer.")
@click.option("--ranks", default=2, show_default=True)
@click.option("--draft", type=click.Path(exists=True, dir_okay=False), help="A draft model; else n-grams draft.")
@click.option("--seed", default=1, show_default=True)
def main(
    suite: Path, count: int, tokens: int, draws: int, end_bias: float, ranks: int, draft: str | None, seed: int
) -> None:
    """Ask for JSON of the schemas in a folder of the suite, such as json/tests."""
    found: Counter[str] = Counter()
    options = ["--threads", "1"] + (["--draft", draft] if draft is not None else [])
    speculative = {"strategy": "pipeinfer", "drafter": "draft+ngram" if draft is not None else "ngram"}
    with served(ranks, *options) as server:
        settings = {"temperature": 1.0, "max_tokens": tokens, "logit_bias": {str(server.end_token()): end_bias}}
        for schema in _schemas(suite):
            try:
                wanted, plain = _drawn(server, _request(schema) | settings, range(seed, seed + draws), found)
            except urllib.error.HTTPError as error:
                found["refused" if error.code == 400 else "failed"] += 1
                continue
            other = server.chat(wanted | speculative)
            found["tried"] += 1
            found["same text"] += _text(plain) == _text(other)
            found["drafted"] += other["mpispec"]["speculation"]["drafted"]
            found["accepted"] += other["mpispec"]["speculation"]["accepted"]
            if _has_ended(plain):
                found["complete"] += 1
                found["valid"] += _is_valid(_text(plain), schema)
            if found["complete"] == count:
                break
            if found["tried"] % 20 == 0:
                click.echo(f"{found['complete']} of {count}: {dict(found)}", err=True)
    click.echo(json.dumps(found, indent=2))


def _drawn(
    server: Served, asked: dict[str, Any], seeds: Sequence[int], found: Counter[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a request and its answer, the first that ends within its tokens if one of them does.

    At temperature 1 a small model writes on and on where a schema lets it, digits too; another seed may end sooner.
    """
    for seed in seeds:
        wanted = asked | {"seed": seed}
        answer = server.chat(wanted | _PLAIN)
        found["drawn"] += 1
        if _has_ended(answer):
            return wanted, answer
    click.echo(f"{asked['messages'][0]['content']}: no answer ended", err=True)
    return wanted, answer


def _has_ended(answer: dict[str, Any]) -> bool:
    return bool(answer["choices"][0]["finish_reason"] == "stop")


def _schemas(suite: Path) -> Iterator[Any]:
    """Yield the schemas of a suite, each once."""
    seen = set()
    files = sorted(suite.rglob("*.json"))
    if not files:
        raise BenchError(f"{suite} holds no schemas; name a folder such as json/tests.")
    for file in files:
        for group in json.loads(file.read_text("utf-8")):
            text = json.dumps(group["schema"])
            # No validator knows a draft that has not been published.
            if text not in seen and isinstance(group["schema"], dict) and "/draft/next/" not in text:
                seen.add(text)
                yield group["schema"]


def _request(schema: Any) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": _PROMPT.format(schema=json.dumps(schema))}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
    }


def _text(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


def _is_valid(text: str, schema: Any) -> bool:
    """Return whether an answer is JSON of a schema, by another program than wrote the grammar."""
    import jsonschema_rs  # noqa: PLC0415  of mpispec[dev]

    try:
        jsonschema_rs.validator_for(schema).validate(json.loads(text))
    except (ValueError, jsonschema_rs.ValidationError) as error:
        click.echo(f"{json.dumps(schema)}: {text!r} is wrong: {error}", err=True)
        return False
    return True
