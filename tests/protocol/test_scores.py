"""Scores of tokens: each is of the row that decided it, whatever was speculated; prompts are scored whole, once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from mpispec.compute.toy import ToyLayer
from mpispec.core.effects import Compute
from mpispec.core.events import Computed, Event
from mpispec.core.ids import Actor
from mpispec.core.messages import Sampling, Score
from mpispec.sampling import log_probabilities
from mpispec.sim.cluster import VirtualCluster
from tests.protocol.scenario import STRATEGIES
from tests.protocol.table import SAMPLED, Cell, Circumstances, SamplingTarget, Situation, logits_of
from tests.protocol.test_penalties import EVERYTHING
from tests.protocol.test_table import circumstances

pytestmark = pytest.mark.protocol

SCORED = replace(SAMPLED, top_logprobs=2)
WHOLE = replace(EVERYTHING, top_logprobs=1, scores_prompt=True)


class ScoringCluster(VirtualCluster):
    """A cluster whose target hands on scores, as the workers of a job do."""

    def _computed(self, actor: Actor, compute: Compute, given_up: bool) -> Event:
        computed = super()._computed(actor, compute, given_up)
        target, _ = self._targets[actor]
        assert isinstance(computed, Computed) and isinstance(target, SamplingTarget)
        return computed._replace(scores=target.take_scores())


def expected(text: list[int], num_stages: int, sampling: Sampling, first: int) -> dict[int, Score]:
    """Return by position the scores of a text from `first` on, computed without any pipeline."""
    layers = [ToyLayer(layer) for layer in range(num_stages)]
    found = {}
    for pos, token in enumerate(text[:-1]):
        value = token
        for layer in layers:
            value = layer.compute(pos, (0,), value)
        if pos + 1 >= first:
            logprob, top = log_probabilities(logits_of(value), text[pos + 1], sampling.top_logprobs)
            found[pos + 1] = Score(pos + 1, text[pos + 1], logprob, tuple(top))
    return found


def check(situation: Situation) -> Mapping[int, int]:
    """Play a situation, compare the scores of each answer; return how often each request gave up its cells."""
    cluster = situation.cluster(ScoringCluster)
    situation.play(cluster)
    preemptions = {}
    for index, prompt in enumerate(situation.prompts):
        answer = cluster.answers[index]
        sampling = situation.cell.sampling
        first = 1 if sampling.scores_prompt else len(prompt)
        text = [*prompt, *answer.tokens]
        wanted = expected(text, situation.cell.num_stages, sampling, first)
        found = {score.pos: score for score in answer.scores}
        if answer.finish == "cancelled":
            assert found.items() <= wanted.items()
            continue
        assert found == wanted
        preemptions[index] = answer.statistics.preemptions if answer.statistics else 0
        if not preemptions[index]:
            assert [score.pos for score in answer.scores] == list(wanted), "each once, in the order of the text"
    return preemptions


CELLS = [
    Cell(strategy, sampling, drafter, 2)
    for strategy in sorted(STRATEGIES)
    for sampling in (SCORED, WHOLE)
    for drafter in ("ngram", "draft", "random")
]


@pytest.mark.parametrize(
    "cell", CELLS, ids=lambda cell: f"{cell}-{'whole' if cell.sampling.scores_prompt else 'answer'}"
)
def test_scores_are_those_of_plain_decoding(cell: Cell) -> None:
    @settings(max_examples=3, deadline=None, derandomize=True, database=None)
    @given(start=circumstances)
    def plays(start: Circumstances) -> None:
        check(Situation(cell, start))

    plays()


@pytest.mark.parametrize("strategy", ["plain", "pipeinfer"])
def test_prompts_are_scored_whole_though_others_have_cells_for_them_and_though_cells_are_short(strategy: str) -> None:
    preempted = 0
    for seed in range(12):
        prompts = (tuple((seed + step) % 5 for step in range(12)),) * 4
        given = Circumstances(seed, prompts, 12, 3, 3, 2, 8, 0.7, cells=64)
        preempted += sum(check(Situation(Cell(strategy, WHOLE, "random", 2), given)).values())
    assert preempted > 0


def test_logarithms_are_those_of_the_softmax() -> None:
    logits = np.array([2.0, 0.5, 2.0, -np.inf, -1.0], np.float32)
    probs = np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum()
    logprob, top = log_probabilities(logits, 4, 3)
    assert logprob == pytest.approx(np.log(probs[4]), abs=1e-6)
    assert [token for token, _ in top] == [0, 2, 1]
    assert [log for _, log in top] == pytest.approx(np.log(probs[[0, 2, 1]]), abs=1e-6)
    assert log_probabilities(logits, 3, 0) == (-9999.0, [])
    assert len(log_probabilities(logits, 0, 20)[1]) == 5
