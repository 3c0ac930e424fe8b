"""What n-grams bring to a draft, on a virtual pipeline that writes a text of yours; all but the text is synthetic.

python scripts/research mix --text docs/design.md --text mpispec/core/head.py

The words of a file are the tokens, so repetitions are real ones. The draft is right as often as asked, whatever
the text, which is unfair to it where text repeats itself: there a real one is better, and the mix brings less.
"""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path

import click

from mpispec.core.config import HeadConfig
from mpispec.core.draft import DraftCore
from mpispec.core.events import Submitted
from mpispec.core.head import HeadCore
from mpispec.core.ids import Actor, RequestId, Token
from mpispec.core.messages import Sampling
from mpispec.core.stage import StageCore
from mpispec.core.traits import BackendTraits
from mpispec.drafters import in_head
from mpispec.drafters.suffix_store import SuffixStore
from mpispec.sim.cluster import VirtualCluster
from mpispec.sim.costs import ROWS_FACTORS, Modelled
from mpispec.sim.script import Acceptance, Script, ScriptedPredictor, ScriptedTarget
from mpispec.strategies import PRESETS

STAGES = (2, 4, 8)
ACCEPTANCE_RATES = (0.5, 0.8)
DRAFT_STEPS = (0.1, 1.5)
"""Seconds of a draft step, as multiples of a stage's."""
_PROMPT_TOKENS = 300
_SEQUENCES = 256
_STAGE_S = 0.010
_WORDS = re.compile(r"\w+|\s+|[^\w\s]")


@dataclass(frozen=True)
class Case:
    """A pipeline and its draft."""

    stages: int
    acceptance: float
    draft_step: float
    rows: str
    may_branch: bool


def read(path: Path, most: int) -> Script:
    """Return a file's words as the text that is written."""
    words = _WORDS.findall(path.read_text())[:most]
    numbers = {word: Token(index) for index, word in enumerate(dict.fromkeys(words))}
    return Script({RequestId(0): [numbers[word] for word in words]})


def tokens_per_s(case: Case, script: Script, strategy: str, drafter: str) -> float:
    """Return the speed from the first token of the answer to the last."""
    text = script.texts[RequestId(0)]
    prompt, num_tokens = tuple(text[:_PROMPT_TOKENS]), len(text) - _PROMPT_TOKENS - 1
    config = HeadConfig(
        case.stages,
        Actor(case.stages + 1),
        context=len(text),
        sequences=_SEQUENCES,
        rows_cost=ROWS_FACTORS[case.rows],
        traits=BackendTraits(may_branch=case.may_branch),
    )
    cluster = VirtualCluster(
        HeadCore(config, PRESETS, in_head(SuffixStore())),
        [StageCore(stage, case.stages, 8 * config.most_in_flight) for stage in config.stages],
        (
            DraftCore(config.chunk, sequences=_SEQUENCES),
            ScriptedPredictor(script, Acceptance((case.acceptance,)), _PROMPT_TOKENS),
        ),
        Modelled((_STAGE_S,) * case.stages, case.draft_step * _STAGE_S, rows_factor=ROWS_FACTORS[case.rows]),
        check=False,
        target=ScriptedTarget(script, case.stages),
    )
    cluster.at(0.0, Submitted(RequestId(0), prompt, num_tokens, frozenset(), Sampling(), strategy, drafter))
    cluster.run(100_000_000)
    answer = cluster.answers[0]
    assert answer.tokens == list(text[_PROMPT_TOKENS : _PROMPT_TOKENS + num_tokens]), "the mix changed the text"
    return (num_tokens - 1) / (answer.times[-1] - answer.times[0])


@click.command()
@click.option("--text", "texts", type=click.Path(exists=True, path_type=Path), multiple=True, required=True)
@click.option("--tokens", type=click.IntRange(min=2 * _PROMPT_TOKENS), default=1500, show_default=True)
@click.option("--strategy", type=click.Choice(list(PRESETS)), default="auto", show_default=True)
@click.option("--rows", "kinds", type=click.Choice(list(ROWS_FACTORS)), multiple=True, default=("cpu", "flat"))
def main(texts: tuple[Path, ...], tokens: int, strategy: str, kinds: tuple[str, ...]) -> None:
    """Print the speed of draft and n-grams together as a share of the draft's alone, by text, as JSON."""
    for path, rows in itertools.product(texts, kinds):
        script = read(path, tokens)
        shares = []
        for stages, acceptance, draft_step, may_branch in itertools.product(
            STAGES, ACCEPTANCE_RATES, DRAFT_STEPS, (False, True)
        ):
            case = Case(stages, acceptance, draft_step, rows, may_branch)
            alone, mixed = (tokens_per_s(case, script, strategy, name) for name in ("draft", "draft+ngram"))
            shares.append(mixed / alone)
            click.echo(json.dumps({"text": path.name, **vars(case), "share": round(mixed / alone, 3)}))
        click.echo(f"{path.name}, {rows} rows: {min(shares):.3f} to {max(shares):.3f}", err=True)
