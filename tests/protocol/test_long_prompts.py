"""A chat that grows: its texts are those of fresh starts, though long prompts are computed in runs of other bits."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import pytest

from mpispec.compute.llama_traits import DeferredFree, Tiling
from mpispec.compute.toy import mixed
from mpispec.core.cache_operations import CacheOperations
from mpispec.core.config import HeadConfig
from mpispec.core.events import Submitted
from mpispec.core.head import HeadCore
from mpispec.core.ids import Actor, RequestId, Token
from mpispec.core.messages import Row, Run, Sampling, given_rows
from mpispec.core.request import Request
from mpispec.core.stage import StageCore
from mpispec.core.traits import BackendTraits
from mpispec.core.waiting import Waiting
from mpispec.drafters import in_head
from mpispec.drafters.suffix_store import SuffixStore
from mpispec.sim.cluster import VirtualCluster
from mpispec.strategies import PRESETS
from tests.protocol.playing import Breach, assert_noticed
from tests.protocol.toys import Chaos, ToyTarget, pack_values, unpack_values

pytestmark = pytest.mark.protocol

VOCABULARY = 5
LONG_ANSWER = 40
"""Tokens of an answer that outgrows the cells that were free when its request was admitted."""
STAGES = 3
TILING = Tiling(tile=34, long=70)
"""No strategy dispatches 34 rows a run."""
TRAITS = BackendTraits(prefill=TILING, freeing=partial(DeferredFree, most_cells=64), shares_cells=False)


class TiledTarget(ToyTarget):
    """The toy, whose rows come out differently in runs of a tile or more."""

    def compute(self, stage: Actor, run: Run, payload: bytes | None) -> tuple[bytes | None, tuple[Token, ...]]:
        outputs, tokens = super().compute(stage, run, payload)
        if outputs is not None and len(run.rows) >= TILING.tile:
            outputs = pack_values([mixed(value) for value in unpack_values(outputs)])
        return outputs, tokens


class InexactTarget(ToyTarget):
    """The toy on kernels where a row comes out differently with each number of rows that go with it."""

    def compute(self, stage: Actor, run: Run, payload: bytes | None) -> tuple[bytes | None, tuple[Token, ...]]:
        outputs, tokens = super().compute(stage, run, payload)
        if outputs is not None:
            outputs = pack_values([mixed(value + len(run.rows)) for value in unpack_values(outputs)])
        return outputs, tokens


def answers(
    prompts: Sequence[Sequence[int]], strategy: str, seed: int, is_row_exact: bool = True, count: int = 12
) -> list[list[int]]:
    """Let one cluster answer prompts one after the other, each with what is cached of the ones before."""
    config = HeadConfig(STAGES, None, 400, sequences=6, chunk=7, traits=replace(TRAITS, is_row_exact=is_row_exact))
    stages = [StageCore(stage, STAGES, 1000) for stage in config.stages]
    target = (TiledTarget if is_row_exact else InexactTarget)(STAGES, VOCABULARY, in_order=True)
    cluster = VirtualCluster(HeadCore(config, PRESETS, in_head(SuffixStore())), stages, None, Chaos(seed), target)
    for index, prompt in enumerate(prompts):
        tokens = tuple(Token(token) for token in prompt)
        request = Submitted(RequestId(index), tokens, count, frozenset(), Sampling(), strategy, "ngram")
        cluster.at(index * 0.001, request)
    cluster.run()
    return [cluster.answers[index].tokens for index in range(len(prompts))]


def shared_answers(prompts: Sequence[Sequence[int]], strategy: str, seed: int) -> tuple[list[list[int]], int]:
    """Let one cluster answer prompts at once, which share cells; return the answers and how many were preempted."""
    traits = BackendTraits(prefill=TILING)
    config = HeadConfig(STAGES, None, 260, sequences=20, chunk=7, traits=traits, max_active=3, cells=260)
    stages = [StageCore(stage, STAGES, 1000) for stage in config.stages]
    target = TiledTarget(STAGES, VOCABULARY)
    cluster = VirtualCluster(HeadCore(config, PRESETS, in_head(SuffixStore())), stages, None, Chaos(seed), target)
    rng = random.Random(seed)
    for index, prompt in enumerate(prompts):
        tokens = tuple(Token(token) for token in prompt)
        request = Submitted(RequestId(index), tokens, LONG_ANSWER, frozenset(), Sampling(), strategy, "ngram")
        cluster.at(rng.random() * 10, request)
    cluster.run()
    given = [cluster.answers[index] for index in range(len(prompts))]
    return [answer.tokens for answer in given], sum(
        answer.statistics.preemptions for answer in given if answer.statistics
    )


def chat(seed: int) -> list[list[int]]:
    """Prompts that each hold the one before, its answer and some more; at times one starts again from the first."""
    rng = random.Random(seed)
    first = [rng.randrange(VOCABULARY) for _ in range(rng.randint(20, 90))]
    prompts, text = [], first
    for _ in range(4):
        prompts.append(text)
        answer = answers([text], "plain", seed)[0]
        text = [*(first if rng.random() < 0.2 else [*text, *answer]), *(rng.choices(range(5), k=rng.randint(1, 40)))]
    return prompts


def play(seed: int, strategy: str = "pipeinfer") -> None:
    """Assert that a chat's answers are those of fresh starts."""
    prompts = chat(seed)
    expected = [answers([prompt], "plain", seed)[0] for prompt in prompts]
    assert answers(prompts, strategy, seed) == expected, f"seed {seed}"


@pytest.mark.parametrize("strategy", ["plain", "sync", "pipeinfer", "specpipe", "auto"])
def test_what_is_cached_changes_no_text(strategy: str) -> None:
    for seed in range(4):
        play(seed, strategy)


def play_shared(seed: int, strategy: str = "pipeinfer") -> int:
    """Assert that the answers of chats that share a full cache are those of fresh starts; return the preemptions."""
    prompts = [*chat(seed), *chat(seed + 1)[:2]]
    expected = [answers([prompt], "plain", seed, count=LONG_ANSWER)[0] for prompt in prompts]
    found, preempted = shared_answers(prompts, strategy, seed)
    assert found == expected, f"seed {seed}"
    return preempted


def test_what_requests_share_and_compute_again_changes_no_text() -> None:
    strategies = ("plain", "pipeinfer", "specpipe", "auto", "sync", "synctree")
    assert sum(play_shared(seed, strategy) for seed, strategy in enumerate(strategies)) > 6


def test_a_request_that_goes_on_and_reads_its_answer_as_a_prompt_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Waiting, "prompt", property(lambda waiting: waiting.tokens))
    assert_noticed(play_shared, range(20), lambda seed: [play_shared(seed)])


def play_inexact(seed: int) -> None:
    """Assert the same where a row's bits depend on its run, for the strategy that dispatches one row a run."""
    prompts = chat(seed)
    expected = [answers([prompt], "plain", seed, is_row_exact=False)[0] for prompt in prompts]
    assert answers(prompts, "plain", seed, is_row_exact=False) == expected, f"seed {seed}"


def test_what_is_cached_changes_no_text_where_rows_are_inexact() -> None:
    for seed in range(16):
        play_inexact(seed)


def test_an_answer_that_is_kept_where_rows_are_inexact_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HeadConfig, "prefill", property(lambda config: config.traits.prefill))
    assert_noticed(play_inexact, range(30), lambda seed: [play_inexact(seed)])


def _count_as_tiled(monkeypatch: pytest.MonkeyPatch, changed: Callable[[Tiling, int, bool], bool]) -> None:
    original = Tiling.reusable

    def reusable(self: Tiling, num_tokens: int, num_common: int, num_read: int, num_prompt: int) -> int:
        is_tiled = changed(self, num_tokens, self.is_long(num_prompt))
        return original(self, num_tokens, num_common, num_read, self.long if is_tiled else 0)

    monkeypatch.setattr(Tiling, "reusable", reusable)


def a_long_prompt_keeps_single_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    _count_as_tiled(monkeypatch, lambda tiling, tokens, tiled: tiling.is_long(tokens) or tiled)


def a_short_prompt_keeps_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    _count_as_tiled(monkeypatch, lambda tiling, tokens, tiled: tiling.is_long(tokens) and tiled)


def the_last_run_of_a_long_prompt_is_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def next_chunk(self: Request, num_rows: int) -> list[Row]:
        del num_rows
        start = self.filled
        stop = self.filled = min(start + TILING.tile, len(self.tokens))
        return given_rows(self.id, self.ids, self.tokens, range(start, stop), self.seq)

    monkeypatch.setattr(Request, "next_chunk", next_chunk)


def cells_that_are_computed_again_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CacheOperations, "truncate", lambda self, seq, pos: None)


@pytest.mark.parametrize(
    "breach",
    [
        a_long_prompt_keeps_single_rows,
        a_short_prompt_keeps_tiles,
        the_last_run_of_a_long_prompt_is_what_is_left,
        cells_that_are_computed_again_stay,
    ],
)
def test_a_breach_is_noticed(breach: Breach, monkeypatch: pytest.MonkeyPatch) -> None:
    breach(monkeypatch)
    assert_noticed(breach, range(30), lambda seed: [play(seed)])
