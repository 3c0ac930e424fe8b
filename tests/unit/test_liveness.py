"""Ranks that have gone are noticed while nobody asks for anything."""

from __future__ import annotations

import re

import pytest

from mpispec.core.ids import Actor
from mpispec.core.messages import AskWork, Lost, Message
from mpispec.runtime.liveness import ASK_S, MOST_UNANSWERED, Liveness, watch
from mpispec.runtime.plan import Plan, StagePlace
from mpispec.transport.base import TransportError

pytestmark = pytest.mark.unit

HOSTS = ("a", "b", "c")
RANK_OF = {Actor(2): 1, Actor(3): 2}


def new() -> Liveness:
    return Liveness({1: Actor(2), 2: Actor(3)}, HOSTS)


def asked(liveness: Liveness, now: float) -> set[int]:
    """Return the ranks that are asked at a moment."""
    sends = liveness.look(now)
    assert all(send.message == AskWork() for send in sends)
    return {RANK_OF[send.dst] for send in sends}


def test_who_speaks_is_not_asked() -> None:
    liveness = new()
    assert asked(liveness, 1000.0) == set(), "nobody is late at the start"
    liveness.hear(1)
    assert asked(liveness, 1000.0 + ASK_S - 1) == set()
    assert asked(liveness, 1000.0 + ASK_S) == {2}
    assert asked(liveness, 1000.0 + ASK_S + 1) == set(), "once"


def test_who_answers_stays() -> None:
    liveness = new()
    for second in range(10 * int(ASK_S) * MOST_UNANSWERED):
        for rank in asked(liveness, float(second)):
            liveness.hear(rank)


def test_a_rank_that_is_gone_is_named() -> None:
    liveness = new()
    seconds = 0
    with pytest.raises(TransportError, match=r"nothing comes from rank 2 on c, though it was asked 4 times in 40 s"):
        for seconds in range(1000):
            asked(liveness, float(seconds))
            liveness.hear(1)
    assert seconds == ASK_S * (MOST_UNANSWERED + 1)


def test_a_pause_of_ones_own_is_no_silence_of_others() -> None:
    liveness = new()
    asked(liveness, 0.0)
    for moment in (1000.0, 2000.0, 3000.0):  # the host slept between
        assert asked(liveness, moment) == {1, 2}
        liveness.hear(1)
        liveness.hear(2)
        assert asked(liveness, moment + 1) == set()


class Ranks:
    """Ranks of a plan that only watch each other, over links of which some are cut. A second a turn."""

    def __init__(self, plan: Plan, num_ranks: int) -> None:
        self._ranks = plan.ranks
        hosts = [f"node{rank + 1}" for rank in range(num_ranks)]
        self._watches = {rank: watch(plan, rank, hosts) for rank in range(num_ranks)}
        self.cut: set[frozenset[int]] = set()
        self.num_questions = 0
        self.head_listens = True
        self.last_words: dict[int, str] = {}

    def play(self, seconds: range) -> None:
        for second in seconds:
            for rank in sorted(self._watches.keys() - self.last_words.keys()):
                try:
                    questions = self._watches[rank].look(float(second))
                except TransportError as error:
                    self.last_words[rank] = str(error)
                    continue
                for question in questions:
                    self._send(rank, self._ranks[question.dst], question.message)

    def _send(self, rank: int, asked: int, message: Message) -> None:
        self.num_questions += 1
        if frozenset((rank, asked)) in self.cut or asked in self.last_words:
            return
        self._watches[asked].hear(rank)
        if isinstance(message, AskWork):
            self._watches[rank].hear(asked)
            return
        assert isinstance(message, Lost)
        if self.head_listens:
            with pytest.raises(TransportError) as error:
                self._watches[asked].lost(rank, message.rank)
            self.last_words[asked] = str(error.value)


PLAN = Plan(5, (StagePlace(0, 0, 3), StagePlace(2, 4, 7), StagePlace(3, 8, 9), StagePlace(4, 10, 11)), 1)
"""A draft on rank 1; the head and stage 1 on rank 0."""
CUT_AT, LATEST = 100, int(ASK_S) * (MOST_UNANSWERED + 1)


def played(*cut: tuple[int, int], seconds: int = LATEST, head_listens: bool = True) -> dict[int, str]:
    """Return the last words of the ranks that end within so many seconds after these links are cut."""
    ranks = Ranks(PLAN, 5)
    ranks.head_listens = head_listens
    ranks.play(range(CUT_AT))
    assert not ranks.last_words and ranks.num_questions < 9 * CUT_AT / ASK_S, "one of two asks"
    ranks.cut = {frozenset(pair) for pair in cut}
    ranks.play(range(CUT_AT, CUT_AT + seconds + 1))
    return ranks.last_words


def test_a_cut_between_two_workers_is_told_the_head_which_names_both() -> None:
    said = played((2, 3))
    assert said.keys() == {0}
    assert {"rank 3 on node4", "rank 2 on node3"} == set(re.findall(r"rank \d on node\d", said[0]))


def test_both_ends_of_a_cut_end_themselves_where_the_head_does_nothing() -> None:
    said = played((2, 3), seconds=LATEST + int(ASK_S), head_listens=False)
    assert said.keys() == {2, 3}
    assert "rank 3 on node4" in said[2] and "rank 2 on node3" in said[3]


def test_a_rank_that_is_cut_off_from_all_ends_and_is_named_by_the_head() -> None:
    said = played(*((rank, 3) for rank in (0, 1, 2, 4)))
    assert said.keys() == {0, 3}
    assert "rank 3 on node4" in said[0] and "rank 0 on node1" in said[3]


def test_a_draft_that_is_cut_off_ends_alone() -> None:
    assert list(played((0, 1))) == [1], "it costs speed"


def test_links_that_carry_nothing_are_not_watched() -> None:
    assert played((1, 2), (2, 4), (1, 4)) == {}


def test_a_cut_that_is_mended_in_time_changes_nothing() -> None:
    ranks = Ranks(PLAN, 5)
    ranks.play(range(CUT_AT))
    ranks.cut = {frozenset((2, 3)), frozenset((0, 4))}
    ranks.play(range(CUT_AT, CUT_AT + LATEST - 2 * int(ASK_S)))
    ranks.cut = set()
    ranks.play(range(CUT_AT + LATEST - 2 * int(ASK_S), 10 * CUT_AT))
    assert not ranks.last_words


def test_a_rank_that_there_is_not_is_no_index() -> None:
    with pytest.raises(TransportError, match="rank 9"):
        new().lost(1, 9)


def test_a_job_that_ends_watches_nobody() -> None:
    liveness = new()
    liveness.look(0.0)
    liveness.rest()
    assert all(asked(liveness, float(second)) == set() for second in range(1000))
