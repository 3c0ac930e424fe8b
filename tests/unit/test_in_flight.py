"""Runs in flight: their order, their room, what a cancel names, and what the head believes of the first stage."""

from __future__ import annotations

import pytest

from mpispec.core.config import HeadConfig
from mpispec.core.events import ProtocolError
from mpispec.core.ids import NodeId, Pos, RequestId, RunId, Token
from mpispec.core.in_flight import FirstStage, RunInFlight, RunsInFlight, Segment
from mpispec.core.messages import Cancel, Result
from mpispec.core.statistics import Statistics
from mpispec.core.tree import Node, TokenTree

pytestmark = pytest.mark.unit


def test_a_run_waits_until_it_is_taken() -> None:
    first = FirstStage()
    first.dispatched(RunId(0))
    first.dispatched(RunId(1))
    first.taken(RunId(0))
    assert (first.num_waiting, first.is_idle) == (1, False)


def test_it_is_idle_once_the_newest_run_has_left_it() -> None:
    first = FirstStage()
    assert first.is_idle
    first.dispatched(RunId(0))
    first.dispatched(RunId(1))
    first.emptied(RunId(0))
    assert not first.is_idle, "said before the newest run came to it"
    first.emptied(RunId(1))
    assert (first.num_waiting, first.is_idle) == (0, True)


def test_a_late_message_about_an_older_run_does_not_make_it_busy_again() -> None:
    first = FirstStage()
    first.dispatched(RunId(0))
    first.emptied(RunId(0))
    first.taken(RunId(0))
    first.emptied(RunId(0))
    assert first.is_idle


REQUEST = RequestId(0)


class Situation:
    """A request whose root has been decided, and the runs of a pipeline of one stage: a window of two."""

    def __init__(self, first_queue: int = 8) -> None:
        self.runs = RunsInFlight(HeadConfig(1, None, context=64, sequences=4, first_queue=first_queue))
        self.tree = TokenTree(NodeId(0), Token(0), Pos(0))
        self.statistics = Statistics()

    def dispatch(self, *nodes: Node) -> RunInFlight:
        run = self.runs.dispatch([Segment(REQUEST, self.statistics, nodes, nodes[-1].pos)])
        for node in nodes:
            self.tree.dispatch(node, run.run_id)
        return run

    def answer(self, run: RunInFlight, void: bool = False) -> RunInFlight:
        return self.runs.answered(Result(run.run_id, (), (), (), void))


def test_results_come_in_the_order_of_dispatch() -> None:
    situation = Situation()
    first, second = (situation.dispatch(situation.tree.root) for _ in range(2))
    with pytest.raises(ProtocolError, match="out of"):
        situation.answer(second)
    situation = Situation()
    first = situation.dispatch(situation.tree.root)
    assert situation.answer(first) is first
    assert not situation.runs
    with pytest.raises(ProtocolError, match="out of"):
        situation.answer(first)


def test_a_run_is_void_only_where_it_was_cancelled() -> None:
    situation = Situation()
    run = situation.dispatch(situation.tree.root)
    with pytest.raises(ProtocolError, match="void"):
        situation.answer(run, void=True)
    situation = Situation()
    run = situation.dispatch(situation.tree.root)
    situation.runs.withdraw_all(REQUEST, [])
    assert situation.answer(run, void=True).is_cancelled
    assert (situation.statistics.cancelled_runs, situation.statistics.void_runs) == (1, 1)


def test_there_is_room_within_credits_and_the_window_of_live_runs() -> None:
    situation = Situation(first_queue=1)
    run = situation.dispatch(situation.tree.root)
    assert not situation.runs.has_room, "the first stage has not begun the only run that may wait there"
    situation.runs.begun(run.run_id, 0.0)
    assert situation.runs.has_room
    second = situation.dispatch(situation.tree.root)
    situation.runs.begun(second.run_id, 0.0)
    assert not situation.runs.has_room, "the window is full"
    situation.runs.withdraw_all(REQUEST, [])
    assert situation.runs.has_room
    assert (len(situation.runs), situation.runs.num_live(REQUEST)) == (2, 0)
    situation.runs.check()


def test_a_cancel_names_runs_without_a_live_row_and_single_rows_of_others() -> None:
    situation = Situation()
    tree = situation.tree
    root_run = situation.dispatch(tree.root)
    good, bad = tree.add(tree.root, Token(1), 0.5), tree.add(tree.root, Token(2), 0.4)
    below = tree.add(bad, Token(3), 0.9)
    mixed = situation.dispatch(good, bad)
    dead = situation.dispatch(below)
    situation.answer(root_run)
    cancel = situation.runs.withdraw(REQUEST, tree.advance(Token(1)))
    assert cancel == Cancel((dead.run_id,), (mixed.run_id,), (REQUEST,), (bad.id,))
    assert situation.runs.living(mixed.run_id) is mixed
    assert situation.runs.living(dead.run_id) is None
    assert situation.runs.withdraw(REQUEST, []) is None
    assert situation.statistics.cancelled_rows == 2
    situation.runs.withdraw_all(REQUEST, [])
    assert situation.statistics.cancelled_rows == 3, "the one that was alive goes with its request"


def test_all_rows_of_a_chunk_go_with_their_request() -> None:
    situation = Situation()
    given = [NodeId(pos) for pos in range(8)]
    situation.runs.dispatch([Segment(REQUEST, situation.statistics, (situation.tree.root,), Pos(7), given)])
    situation.runs.withdraw_all(REQUEST, [])
    assert situation.statistics.cancelled_rows == 8


def test_a_rollback_settles_no_more_than_what_is_left_of_the_text() -> None:
    situation = Situation()
    segment = Segment(REQUEST, situation.statistics, (), Pos(7), [NodeId(pos) for pos in range(8)])
    situation.runs.dispatch([segment])
    assert segment.num_settled == 8
    situation.runs.rolled_back(REQUEST, Pos(5))
    situation.runs.rolled_back(RequestId(1), Pos(2))
    assert segment.num_settled == 5
