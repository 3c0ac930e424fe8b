"""What n-grams bring, to a draft or alone, on a virtual pipeline that writes texts of yours; all else is synthetic.

python scripts/research mix --text docs/design.md --text mpispec/core/head.py [--alone]

Alone, the texts are requests one after the other, and n-grams draft from the earlier ones too. The words of a file are
the tokens, so repetitions are real ones. The draft is right as often as asked, whatever the text, which is unfair to it
where text repeats itself: there a real one is better, and the mix brings less.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
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


def read(paths: Sequence[Path], most: int) -> Script:
    """Return the words of each file as the text of a request.

    A number of its own stands before each, for the script knows nothing of cells that a later request may keep.
    """
    files = [_WORDS.findall(path.read_text())[:most] for path in paths]
    numbers = {word: Token(index) for index, word in enumerate(dict.fromkeys(itertools.chain(*files)), len(files))}
    texts = [[Token(index), *(numbers[word] for word in words)] for index, words in enumerate(files)]
    return Script({RequestId(index): text for index, text in enumerate(texts)})


def tokens_per_s(case: Case, script: Script, strategy: str, drafter: str) -> float:
    """Return the speed from the first token of each answer to its last."""
    config = HeadConfig(
        case.stages,
        Actor(case.stages + 1),
        context=max(map(len, script.texts.values())),
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
    for request, text in script.texts.items():
        prompt, num_tokens = tuple(text[:_PROMPT_TOKENS]), len(text) - _PROMPT_TOKENS - 1
        cluster.at(0.0, Submitted(request, prompt, num_tokens, frozenset(), Sampling(), strategy, drafter))
    cluster.run(100_000_000)
    gaps = seconds = 0.0
    for request, text in script.texts.items():
        answer = cluster.answers[request]
        assert answer.tokens == list(text[_PROMPT_TOKENS:-1]), "the mix changed the text"
        gaps += len(answer.times) - 1
        seconds += answer.times[-1] - answer.times[0]
    return gaps / seconds


def alone(script: Script, strategy: str, rows: str) -> Iterator[dict[str, object]]:
    """Yield the speed with n-grams and no draft as a multiple of plain decoding's, by number of stages."""
    for stages, may_branch in itertools.product(STAGES, (False, True)):
        case = Case(stages, 0.0, 1.0, rows, may_branch)
        plain, fast = tokens_per_s(case, script, "plain", "none"), tokens_per_s(case, script, strategy, "ngram")
        yield {"stages": stages, "rows": rows, "may_branch": may_branch, "speedup": round(fast / plain, 3)}


@click.command()
@click.option("--text", "texts", type=click.Path(exists=True, path_type=Path), multiple=True, required=True)
@click.option("--tokens", type=click.IntRange(min=2 * _PROMPT_TOKENS), default=1500, show_default=True)
@click.option("--strategy", type=click.Choice(list(PRESETS)), default="auto", show_default=True)
@click.option("--rows", "kinds", type=click.Choice(list(ROWS_FACTORS)), multiple=True, default=("cpu", "flat"))
@click.option("--alone", "is_alone", is_flag=True, help="Compare n-grams without a draft with plain decoding.")
def main(texts: tuple[Path, ...], tokens: int, strategy: str, kinds: tuple[str, ...], is_alone: bool) -> None:
    """Print the speed of draft and n-grams together as a share of the draft's alone, by text, as JSON."""
    if is_alone:
        for rows in kinds:
            for found in alone(read(texts, tokens), strategy, rows):
                click.echo(json.dumps(found))
        return
    for path, rows in itertools.product(texts, kinds):
        script = read([path], tokens)
        shares = []
        for stages, acceptance, draft_step, may_branch in itertools.product(
            STAGES, ACCEPTANCE_RATES, DRAFT_STEPS, (False, True)
        ):
            case = Case(stages, acceptance, draft_step, rows, may_branch)
            drafted, mixed = (tokens_per_s(case, script, strategy, name) for name in ("draft", "draft+ngram"))
            shares.append(mixed / drafted)
            click.echo(json.dumps({"text": path.name, **vars(case), "share": round(mixed / drafted, 3)}))
        click.echo(f"{path.name}, {rows} rows: {min(shares):.3f} to {max(shares):.3f}", err=True)
