"""Which way through the stages a run takes: prompts have one of their own where requests have cells of their own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from mpispec.core.config import FIRST_READING, HeadConfig
from mpispec.core.effects import Effect, Send
from mpispec.core.events import Received, StopRequested, Submitted, Withdrawn
from mpispec.core.head import HeadCore
from mpispec.core.ids import Actor, NodeId, Pos, RequestId, RunId, SeqId, Token
from mpispec.core.lanes import Lanes
from mpispec.core.messages import Cancel, Close, Idle, Open, Result, Run, Sampling, Stop
from mpispec.core.request import Request
from mpispec.core.scheduler import Share
from mpispec.core.traits import BackendTraits
from mpispec.core.tree import TokenTree
from mpispec.drafters import in_head
from mpispec.drafters.suffix_store import SuffixStore
from mpispec.strategies import PRESETS

pytestmark = pytest.mark.unit

STAGES = 2
READERS = Actor(STAGES)
ROWS, PROMPTS = Actor(1), Actor(READERS + 1)
"""The first stage, by its two addresses."""


class Head:
    """A head whose stages answer when they are told to."""

    def __init__(self, max_active: int = 2, strategy: str = "plain", drafter: str = "none") -> None:
        self.way = strategy, drafter
        traits = BackendTraits(has_own_cells=True)
        config = HeadConfig(
            STAGES, None, context=256, sequences=8, max_active=max_active, chunk=4, traits=traits, readers=READERS
        )
        self.core = HeadCore(config, PRESETS, in_head(SuffixStore()))
        self.sent: list[Send] = []
        self.runs: dict[Actor, list[Run]] = {ROWS: [], PROMPTS: []}
        """Dispatched and not answered."""

    def submit(self, request: int, prompt: int, period: int = 1000) -> None:
        tokens = tuple(Token(1000 * request + pos % period) for pos in range(prompt))
        self.take(self.core.handle(Submitted(RequestId(request), tokens, 8, frozenset(), Sampling(), *self.way), 0))

    def answer(self, first: Actor) -> None:
        """The oldest run of a way comes back, and its first stage has nothing left."""
        run = self.runs[first].pop(0)
        deciding = [row for row in run.rows if row.decide]
        requests, nodes = tuple(row.request for row in deciding), tuple(row.node for row in deciding)
        result = Result(run.run_id, requests, nodes, (Token(7),) * len(deciding))
        self.take(self.core.handle(Received(Actor(first + STAGES - 1), result), 0.0))
        newest = max([run.run_id, *(each.run_id for each in self.runs[first])])
        self.take(self.core.handle(Received(first, Idle(newest)), 0.0))

    def take(self, effects: list[Effect]) -> None:
        self.core.check()
        sends = [effect for effect in effects if isinstance(effect, Send)]
        self.sent += sends
        for send in sends:
            if isinstance(send.message, Run):
                self.runs[send.dst].append(send.message)


def test_a_prompt_goes_its_own_way_and_the_answer_that_of_all_rows() -> None:
    head = Head()
    head.submit(0, prompt=7)
    assert [len(run.rows) for run in head.runs[PROMPTS]] == [4, 3] and not head.runs[ROWS]
    assert [run.run_id for run in head.runs[PROMPTS]] == [FIRST_READING, FIRST_READING + 1]
    head.answer(PROMPTS)
    head.answer(PROMPTS)
    assert [len(run.rows) for run in head.runs[ROWS]] == [1] and not head.runs[PROMPTS]
    assert head.runs[ROWS][0].run_id == 0
    opened = [(send.dst, send.message.cached) for send in head.sent if isinstance(send.message, Open)]
    assert opened == [(PROMPTS, 0), (ROWS, 7)], "both ways end at a sampler of their own"
    head.take(head.core.handle(Withdrawn(RequestId(0)), 0.0))
    assert [send.dst for send in head.sent if isinstance(send.message, Close)] == [PROMPTS, ROWS]
    cancels = [(send.dst, send.message) for send in head.sent if isinstance(send.message, Cancel)]
    assert cancels == [(ROWS, Cancel((RunId(0),), (), (), ())), (Actor(2), Cancel((RunId(0),), (), (), ()))]


def test_rows_of_others_do_not_wait_for_a_prompt() -> None:
    head = Head()
    head.submit(0, prompt=1)
    head.answer(ROWS if head.runs[ROWS] else PROMPTS)
    head.submit(1, prompt=200)
    read = [*head.runs[PROMPTS]]
    for _ in range(3):
        head.answer(ROWS)
        assert [run.rows[0].request for run in head.runs[ROWS]] == [0]
    assert read and head.runs[PROMPTS] == read, "none of them has been answered meanwhile"


def test_a_request_begins_where_runs_of_the_one_before_may_still_write_its_cells() -> None:
    head = Head(max_active=1)
    head.submit(0, prompt=1)
    head.answer(ROWS if head.runs[ROWS] else PROMPTS)
    assert len(head.runs[ROWS]) == 1
    head.take(head.core.handle(Withdrawn(RequestId(0)), 0.0))
    head.submit(1, prompt=9)
    assert [run.rows[0].request for run in head.runs[ROWS]] == [0, 1] and not head.runs[PROMPTS]
    head.answer(ROWS)
    head.answer(ROWS)
    assert {run.rows[0].request for run in head.runs[PROMPTS]} == set(), "it has runs on the first way"
    while head.runs[ROWS] and not head.runs[ROWS][0].rows[-1].decide:
        head.answer(ROWS)
    assert not head.runs[PROMPTS]


def test_while_prompts_are_read_guesses_take_no_time_from_newest_tokens() -> None:
    traits = BackendTraits(has_own_cells=True)
    lanes = Lanes(HeadConfig(STAGES, None, 256, 8, max_active=2, chunk=4, traits=traits, readers=READERS))
    tree = TokenTree(NodeId(0), Token(0), Pos(0))
    guess = tree.add(tree.root, Token(1), 0.9, 0)
    request = cast(Request, SimpleNamespace())
    whole, behind = Share(request, [tree.root, guess]), Share(request, [guess])
    lanes.main.scheduler.plan = lambda requests: [whole, behind]  # type: ignore[method-assign]
    assert lanes.main.plan(()) == [whole, behind]
    lanes.all[1].dispatch([], SeqId(8))
    assert lanes.main.plan(()) == [Share(request, [tree.root])]


def test_who_guesses_among_the_prompts_goes_to_the_other_way_when_somebody_comes() -> None:
    head = Head(strategy="pipeinfer", drafter="ngram")
    head.submit(0, prompt=40, period=4)
    while head.runs[PROMPTS][0].rows[-1].pos < 39:
        head.answer(PROMPTS)
    guesses = [run for run in head.runs[PROMPTS] if run.rows[0].pos >= 40]
    assert guesses, "while it is alone it goes on behind its prompt"
    head.submit(1, prompt=80)
    known = {run.run_id for run in head.runs[PROMPTS]}
    while any(run.rows[0].request == 0 for run in head.runs[PROMPTS]):
        head.answer(PROMPTS)
        new = [run for run in head.runs[PROMPTS] if run.run_id not in known]
        assert all(run.rows[0].request == 1 for run in new)
    assert head.runs[ROWS]


def test_everyone_is_told_to_stop() -> None:
    head = Head()
    effects = head.core.handle(StopRequested(), 0.0)
    stops = [effect.dst for effect in effects if isinstance(effect, Send) and isinstance(effect.message, Stop)]
    assert stops == [1, 2, 3, 4]
