"""Requests share the cells of what their prompts have in common; no text and no account is ever wrong for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpispec.compute.toy import reference
from mpispec.core.cache_operations import CacheOperations
from mpispec.core.events import Submitted
from mpispec.core.ids import RequestId, SeqId, Token
from mpispec.core.messages import Sampling
from mpispec.core.prefix_cache import PrefixCache, Segment
from mpispec.core.request import Request
from mpispec.core.waiting import PLACES, Waiting
from mpispec.sim.cluster import Answer
from tests.protocol.chats import VOCABULARY, AccountedHead, Chats, Turn, build, draw, play, played
from tests.protocol.playing import Breach, assert_noticed

pytestmark = pytest.mark.protocol

SEEDS = range(250)
STEPS, LONG_STEPS = 10_000, 1_000_000
"""That chats in a full cache make in all, and make in the long run."""
NIGHT_SEED = 2**32
"""First of the seeds that the long run plays."""


def total(answers: Sequence[Answer], counter: str) -> int:
    """Return the sum of a counter of all answers' statistics."""
    return sum(getattr(answer.statistics, counter) for answer in answers if answer.statistics is not None)


def test_chats_write_the_plain_text_with_what_others_have_cached() -> None:
    answers = [answer for seed in SEEDS for answer in play(draw(seed, has_budget=False)).values()]
    assert total(answers, "cached") > 30 * len(SEEDS), "the chats share too little to prove anything"
    assert total(answers, "preemptions") == 0


def test_chats_write_the_plain_text_in_a_cache_that_is_full() -> None:
    clusters = [played(draw(seed)) for seed in SEEDS]
    answers = [answer for cluster in clusters for answer in cluster.answers.values()]
    assert total(answers, "preemptions") > 50, "the cells are too many to prove anything"
    assert sum(cluster.steps for cluster in clusters) >= STEPS, "the chats are too short to prove anything"
    assert {answer.finish for answer in answers} == {"length", "cancelled", "timeout"}


def test_a_draft_that_lost_its_cells_again_and_again_is_not_remembered_for_each_time() -> None:
    play(draw(NIGHT_SEED + 751))


@given(seed=st.integers(min_value=10_000, max_value=2**31))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_any_chats_write_the_plain_text(seed: int) -> None:
    play(draw(seed))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_chats_of_a_million_steps_write_the_plain_text() -> None:
    steps, counts, seed = 0, Counter[str](), NIGHT_SEED
    while steps < LONG_STEPS:
        cluster = played(draw(seed))
        steps += cluster.steps
        answers = [*cluster.answers.values()]
        counts.update({counter: total(answers, counter) for counter in ("cached", "preemptions", "cancelled_runs")})
        counts.update(answer.finish or "never" for answer in answers)
        seed += 1
    print(f"{steps} steps of {seed - NIGHT_SEED} seeds: {dict(counts)}")
    assert counts["cached"] > 10_000
    assert not counts["never"]
    for counter in ("preemptions", "cancelled_runs", "cancelled", "timeout"):
        assert counts[counter] > 100, f"too little {counter} to prove anything"


def turns(prompts: Sequence[Sequence[int]], follows: Sequence[int | None], count: int = 6) -> tuple[Turn, ...]:
    """Return turns with these prompts, each after the one that it follows."""
    answers = [tuple(reference(prompt, count, 2, VOCABULARY)) for prompt in prompts]
    return tuple(
        Turn(0, tuple(prompt), answer, after, None)
        for prompt, answer, after in zip(prompts, answers, follows, strict=True)
    )


def chats(parallel: int, cells: int, some: tuple[Turn, ...]) -> Chats:
    """Return chats that are answered a token a run, in prefill runs of eight rows."""
    context = max(len(turn.prompt) + len(turn.answer) for turn in some)
    return Chats(0, "plain", "none", 2, parallel, 8, 10, cells, context, some)


def test_chats_that_take_turns_do_not_evict_each_other() -> None:
    firsts = [[1, 2, 3, 4, 0, 1], [2, 2, 1, 0, 4, 4]]
    prompts = [list(first) for first in firsts]
    for text in (*firsts, *firsts):
        text += [*reference(text, 6, 2, VOCABULARY), 3]
        prompts.append(list(text))
    answers = play(chats(1, 100, turns(prompts, [None, 0, 1, 2, 3, 4])))
    cached = [answer.statistics.cached for _, answer in sorted(answers.items()) if answer.statistics is not None]
    # The last token of an answer has no cell, nor has the new one.
    assert cached == [0, 0, *(len(prompt) - 2 for prompt in prompts[2:])]


def test_requests_at_once_share_the_cells_of_a_system_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    system = [pos % VOCABULARY for pos in range(40)]
    most = 0
    original = AccountedHead.check

    def check(self: AccountedHead) -> None:
        nonlocal most
        most = max(most, self._cache.num_cells)
        original(self)

    monkeypatch.setattr(AccountedHead, "check", check)
    some = turns([[*system, 1], [*system, 2], [*system, 3]], [None] * 3)
    answers = play(chats(3, 100, some))
    assert total([*answers.values()], "cached") == 2 * len(system)
    assert most <= len(system) + 3 * 7


def test_a_request_that_finds_no_cells_waits_and_one_that_runs_out_of_them_goes_on_later() -> None:
    """Five texts of 22 tokens in 50 cells: two are admitted, and have 44 cells in the end."""
    some = turns([[token] * 4 for token in range(5)], [None] * 5, count=18)
    answers = play(chats(5, 50, some))
    assert total([*answers.values()], "preemptions") > 0
    assert all(answer.finish == "length" for answer in answers.values())


def test_many_that_are_more_urgent_may_wait_for_the_prompt_of_one_that_is_less() -> None:
    """All are admitted while another one fills the pipeline, so that none of them has begun."""
    prompt = [1, 2, 3, 4] * 10
    some = turns([[0] * 30, *[prompt] * 20], [None] * 21)
    cluster = build(replace(chats(21, 1000, some), turns=()))
    cluster.chats = chats(21, 1000, some)
    for index, turn in enumerate(some):
        tokens = tuple(Token(token) for token in turn.prompt)
        priority = 1 if index == 1 else 0
        one = Submitted(RequestId(index), tokens, 6, frozenset(), Sampling(), "plain", "none", priority=priority)
        cluster.at(0.0, one)
    cluster.run()
    cluster.check_drained()
    assert all(cluster.answers[index].tokens == list(turn.answer) for index, turn in enumerate(some))


def test_a_request_of_lower_priority_stands_further_back_and_does_not_starve() -> None:
    """Three chats without a pause, one place: two of their turns wait at any time, and so does the fourth request."""
    single = 3
    prompts = [[1, index % 3, index % 4] for index in range(150)]
    follows = [None] * 4 + [index - (4 if index < 7 else 3) for index in range(4, len(prompts))]
    for priority in (0, 1):
        some = list(turns(prompts, follows, count=2))
        some[single] = replace(some[single], priority=priority)
        answers = play(chats(1, 1000, tuple(some)))
        before = sum(answer.times[0] < answers[single].times[0] for answer in answers.values())
        assert before == pytest.approx(single + PLACES * priority, abs=3)


def test_a_request_that_takes_too_long_ends_with_what_it_has() -> None:
    some = turns([[1, 2], [3, 4]], [None, None], count=30)
    whole = play(chats(1, 200, some))
    middle = (whole[0].times[10] + whole[0].times[11]) / 2
    late, never = (replace(turn, lasts=middle) for turn in some)
    answers = play(chats(1, 200, (late, never)))
    assert [answer.finish for _, answer in sorted(answers.items())] == ["timeout", "timeout"]
    assert len(answers[0].tokens) == 11
    assert not answers[1].tokens, "the second waits for the first to end"
    assert answers[1].statistics is None


def cells_that_may_never_be_written_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    def settle(self: PrefixCache) -> None:
        for slot in self._places:
            holder = slot.holder
            if holder is not None and min(holder.filled, slot.num_prompt) > slot.start:
                self._grow(slot, slot.tokens[: min(holder.filled, slot.num_prompt)])

    monkeypatch.setattr(PrefixCache, "_settle", settle)


def evicted_cells_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    original = PrefixCache.evict

    def evict(self: PrefixCache, num_cells: int) -> None:
        planned = list(self._plan)
        original(self, num_cells)
        self._plan[:] = planned

    monkeypatch.setattr(PrefixCache, "evict", evict)


def cells_behind_a_kept_text_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    def relabel(self: PrefixCache, place: Segment, seq: SeqId) -> None:
        place.seq = seq
        self._leaves[place] = None

    monkeypatch.setattr(PrefixCache, "_relabel", relabel)


def rows_are_dispatched_for_which_there_are_no_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CacheOperations, "room", lambda self, num_rows: num_rows)


def a_preempted_request_begins_from_its_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Request.preempted

    def preempted(self: Request) -> Waiting:
        waiting = original(self)
        waiting.tokens = waiting.submitted.prompt
        return waiting

    monkeypatch.setattr(Request, "preempted", preempted)


@pytest.mark.parametrize(
    "breach",
    [
        cells_that_may_never_be_written_are_shared,
        evicted_cells_stay,
        cells_behind_a_kept_text_stay,
        rows_are_dispatched_for_which_there_are_no_cells,
        a_preempted_request_begins_from_its_prompt,
    ],
)
def test_a_breach_is_noticed(breach: Breach, monkeypatch: pytest.MonkeyPatch) -> None:
    breach(monkeypatch)
    assert_noticed(breach, SEEDS, lambda seed: [play(draw(seed))])
