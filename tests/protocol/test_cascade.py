"""A cascade of models writes the plain text, however deep it is and however its levels draft, lag and roll back.

A failing seed is repeated by `play(draw(seed))` of `tests/protocol/cascade.py`.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpispec.core import draft as draft_module
from mpispec.core import own_caches
from mpispec.core.cache_operations import CacheOperations
from mpispec.core.config import HeadConfig
from mpispec.core.draft import DraftCore
from mpispec.core.drafting import DraftLink
from mpispec.core.effects import Effect, Send
from mpispec.core.events import Received
from mpispec.core.head import HeadCore
from mpispec.core.ids import HEAD, Actor, Pos, RequestId, SeqId, Token
from mpispec.core.in_flight import Segment
from mpispec.core.level import LevelCore
from mpispec.core.messages import Draft, Follow, Prime, Result, Run, Sampling
from mpispec.strategies import PRESETS
from tests.protocol.cascade import CHARACTERS, build, crowded, draw, play
from tests.protocol.playing import Breach, assert_everyone_quits, assert_noticed, finish
from tests.protocol.toys import Chaos

pytestmark = pytest.mark.protocol

SEEDS_EACH = 60


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("character", [*CHARACTERS, None])
def test_a_cascade_writes_the_plain_text_in_any_order(depth: int, character: str | None) -> None:
    steps = sum(play(draw(seed, depth, character)) for seed in range(SEEDS_EACH))
    assert steps > 100 * SEEDS_EACH, "the scenarios have become too small to prove anything"


@given(seed=st.integers(min_value=20_000, max_value=2**31))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_a_cascade_of_any_seed_writes_the_plain_text(seed: int) -> None:
    play(draw(seed))


class Ponderous(Chaos):
    """Random delays, but a target so slow that a level can write to the end of its context meanwhile."""

    def compute(self, stage: Actor, num_rows: int) -> float:
        """See `Costs`."""
        return (1000.0 if stage == Actor(1) else 1.0) * super().compute(stage, num_rows)


def test_a_level_drafts_up_to_its_first_limit_while_the_target_is_silent() -> None:
    level, stage, limit = Actor(2), Actor(3), Pos(6)
    core = LevelCore(HeadCore(HeadConfig(1, None, context=64, sequences=2, actor=level), PRESETS, {}), HEAD, "pipespec")
    prompt = (Token(1), Token(2))
    effects = core.handle(Received(HEAD, Prime(RequestId(0), prompt, limit, 1, 0.0, Sampling())), 0.0)
    drafted: list[Token] = []
    while effects:
        match effects.pop(0):
            case Send(message=Run(run_id, rows)):
                nodes = tuple(row.node for row in rows if row.decide)
                result = Result(run_id, (RequestId(0),) * len(nodes), nodes, (Token(3),) * len(nodes))
                effects += core.handle(Received(stage, result), 0.0)
            case Send(message=Draft(tokens=tokens)):
                drafted += tokens
    assert len(prompt) + len(drafted) == limit


@pytest.mark.parametrize("strategy", ["sync", "synctree"])
def test_a_level_waits_within_its_limit_for_a_slow_target(strategy: str) -> None:
    """If it ended the request itself, at the end of its context, later messages of the target would be lost."""
    for seed in range(SEEDS_EACH // 3):
        scenario = replace(draw(seed, depth=2, character="perfect"), strategy=strategy)
        finish(scenario, build(scenario, Ponderous(seed)))


@pytest.mark.parametrize("seed", range(60))
def test_everyone_quits_whenever_the_program_ends(seed: int) -> None:
    scenario = draw(seed)
    assert_everyone_quits(scenario, build(scenario))


# -- breaches of what a cascade adds to the laws --------------------------------------------------------------------


class Keeping(CacheOperations):
    """Drops no cell of what is rolled back."""

    def truncate(self, seq: SeqId, pos: int) -> None:
        super().truncate(seq, 1 << 20)


def cells_that_a_level_rolls_back_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_caches, "CacheOperations", Keeping)


def cells_that_a_draft_rolls_back_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draft_module, "CacheOperations", Keeping)


def test_a_cascade_whose_caches_are_full_writes_the_plain_text() -> None:
    for seed in range(150):
        play(crowded(seed))


def a_draft_does_not_receive_a_new_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    original = HeadCore.handle

    def handle(self: HeadCore, event: object, now: float) -> list[Effect]:
        effects = original(self, event, now)
        return [
            Send(
                effect.dst,
                effect.plane,
                Follow(message.request, message.pos, message.tokens, message.limit),
            )
            if isinstance(effect, Send) and isinstance(message := effect.message, Follow)
            else effect
            for effect in effects
        ]

    monkeypatch.setattr(HeadCore, "handle", handle)


def draft_tokens_of_a_former_epoch_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    original = DraftLink.received

    def received(self: DraftLink, draft: object, *others: object) -> None:
        self._epoch, epoch = draft.epoch, self._epoch
        original(self, draft, *others)
        self._epoch = epoch

    monkeypatch.setattr(DraftLink, "received", received)


def a_prefill_chunk_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_dead(self: Segment) -> bool:
        return bool(self.nodes) and self.num_dead == len(self.nodes)

    monkeypatch.setattr(Segment, "is_dead", property(is_dead))


def an_aborted_run_counts_as_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DraftCore, "_computed", lambda self, stream, most: most)


BREACHES: list[Breach] = [
    cells_that_a_level_rolls_back_stay,
    cells_that_a_draft_rolls_back_stay,
    a_draft_does_not_receive_a_new_epoch,
    draft_tokens_of_a_former_epoch_are_kept,
    a_prefill_chunk_is_cancelled,
    an_aborted_run_counts_as_computed,
]


@pytest.mark.parametrize("breach", BREACHES, ids=lambda breach: breach.__name__)
def test_a_breach_is_noticed(breach: Breach, monkeypatch: pytest.MonkeyPatch) -> None:
    breach(monkeypatch)
    assert_noticed(breach, range(1500), lambda seed: [play(draw(seed, depth=2 + seed % 2))])
