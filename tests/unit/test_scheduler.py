"""What a run carries of several requests."""

from __future__ import annotations

from itertools import pairwise

import pytest

from mpispec.core.config import HeadConfig
from mpispec.core.effects import Emit, Send
from mpispec.core.events import Received, Submitted, Withdrawn
from mpispec.core.head import HeadCore
from mpispec.core.ids import Actor, RequestId, RunId, Token
from mpispec.core.messages import Cancel, Idle, Result, Run, Sampling
from mpispec.core.traits import BackendTraits
from mpispec.sim.script import Acceptance
from mpispec.sim.study import Study, answers_of
from mpispec.strategies import PRESETS

pytestmark = pytest.mark.unit

FIRST = Actor(1)
STEEP = tuple(float(rows) for rows in range(1, 65))
"""Rows that cost as much together as one after the other."""


class Head:
    """A head whose stages answer when they are told to."""

    def __init__(self, stages: int = 2, rows_cost: tuple[float, ...] = (1.0,), own_cells: bool = False) -> None:
        traits = BackendTraits(has_own_cells=own_cells)
        self.core = HeadCore(
            HeadConfig(
                stages, None, context=256, sequences=64, max_active=64, chunk=8, rows_cost=rows_cost, traits=traits
            ),
            PRESETS,
            {},
        )
        self.last = Actor(stages)
        self.runs: list[Run] = []
        """Dispatched and not answered."""
        self.emitted: list[int] = []

    def submit(self, request: int, prompt: int, priority: int = 0) -> list[Run]:
        tokens = tuple(Token(1000 * request + pos) for pos in range(prompt))
        submitted = Submitted(RequestId(request), tokens, 64, frozenset(), Sampling(), "plain", "none", priority)
        return self._take(self.core.handle(submitted, 0.0))

    def becomes_idle(self) -> list[Run]:
        """The first stage has computed all that was sent to it."""
        newest = max((run.run_id for run in self.runs), default=RunId(0))
        return self._take(self.core.handle(Received(FIRST, Idle(newest)), 0.0))

    def answers(self) -> list[Run]:
        """The oldest run comes back."""
        run = self.runs.pop(0)
        deciding = [row for row in run.rows if row.decide]
        requests, nodes = tuple(row.request for row in deciding), tuple(row.node for row in deciding)
        result = Result(run.run_id, requests, nodes, (Token(7),) * len(deciding))
        return self._take(self.core.handle(Received(self.last, result), 0.0))

    def _take(self, effects: list[object]) -> list[Run]:
        self.core.check()
        runs = [effect.message for effect in effects if isinstance(effect, Send) and isinstance(effect.message, Run)]
        self.emitted += [effect.request for effect in effects if isinstance(effect, Emit)]
        self.runs += runs
        return runs


def requests_of(run: Run) -> list[int]:
    return sorted({row.request for row in run.rows})


def test_requests_that_are_ready_when_the_first_stage_is_out_of_work_share_a_run() -> None:
    head = Head(stages=1)
    assert [requests_of(run) for run in head.submit(0, prompt=3)] == [[0]]
    assert not head.submit(1, prompt=3)
    assert not head.submit(2, prompt=3)
    (run,) = head.answers()
    assert requests_of(run) == [0, 1, 2]
    assert [row.decide for row in run.rows if row.request == 0] == [True], "the newest token, next to two prompts"
    (run,) = head.answers()
    assert len(run.rows) == 3
    assert head.emitted == [0, 0, 1, 2]


def test_rows_that_cost_as_much_together_fill_the_pipeline_one_by_one() -> None:
    for rows_cost, rows in ((STEEP, 1), ((1.0,), 4)):
        head = Head(stages=4, rows_cost=rows_cost)
        head.submit(0, prompt=1)
        for request in range(1, 4):
            head.submit(request, prompt=1)
            head.becomes_idle()
        for _ in range(8):
            if head.runs:
                head.answers()
                head.becomes_idle()
        assert max(len(run.rows) for run in head.runs) <= rows


def test_a_row_waits_for_others_where_runs_of_several_pass_sooner() -> None:
    """Four requests on two stages whose runs have met in pairs stay pairs; single ones wait until they meet."""
    head = Head(stages=2, rows_cost=(1.0, 1.1, 2.0, 3.0))
    for request in range(4):
        head.submit(request, prompt=1)
        head.becomes_idle()
    for _ in range(12):
        head.answers()
        head.becomes_idle()
    assert sorted(len(run.rows) for run in head.runs) == [2, 2]


def test_chunks_are_as_short_as_they_can_be_read_nearly_as_soon_while_others_decode() -> None:
    """With the newest token of the other request a run has as many rows as a chunk alone."""
    flat = (*(1.0 for _ in range(8)),)
    for rows_cost, rows in ((flat, 8), (STEEP, 3)):
        head = Head(stages=2, rows_cost=rows_cost)
        head.submit(0, prompt=1)
        head.answers()
        head.becomes_idle()
        head.submit(1, prompt=200)
        head.answers()
        runs = head.becomes_idle() or head.runs[-1:]
        assert len(runs[-1].rows) == rows
        assert sum(row.request == 1 for row in runs[-1].rows) >= rows - 1


def test_the_oldest_prompt_is_read_first_and_a_more_urgent_one_before_it() -> None:
    head = Head(stages=1)
    head.submit(0, prompt=1)
    for request, priority in ((1, 0), (2, 0), (3, -1)):
        head.submit(request, prompt=100, priority=priority)
    (run,) = head.answers()
    assert requests_of(run) == [0, 3]


def test_of_requests_that_all_wait_every_ninth_run_is_for_a_less_urgent_one() -> None:
    head = Head(stages=1, own_cells=True)
    for request, priority in ((0, 5), (1, 0), (2, 0)):
        head.submit(request, prompt=2, priority=priority)
    served = []
    for _ in range(40):
        served += [requests_of(run)[0] for run in head.runs]
        head.answers()
    turns = [run for run, request in enumerate(served[5:]) if request == 0]
    assert [later - earlier for earlier, later in pairwise(turns)] == [9] * (len(turns) - 1)
    assert len(turns) >= 3


def test_requests_with_cells_of_their_own_take_turns() -> None:
    head = Head(stages=1, own_cells=True)
    for request in range(3):
        head.submit(request, prompt=2)
    served = []
    for _ in range(9):
        assert all(len(requests_of(run)) == 1 for run in head.runs)
        served += [requests_of(run)[0] for run in head.runs]
        head.answers()
    assert sorted(served[-3:]) == sorted(served[-6:-3]) == [0, 1, 2]


def test_a_request_that_ends_takes_its_rows_out_of_a_run_that_others_keep_alive() -> None:
    head = Head(stages=1)
    head.submit(0, prompt=1)
    head.submit(1, prompt=1)
    head.answers()
    (run,) = head.runs
    assert requests_of(run) == [0, 1]
    effects = head.core.handle(Withdrawn(RequestId(1)), 0.0)
    (cancel,) = [
        effect.message for effect in effects if isinstance(effect, Send) and isinstance(effect.message, Cancel)
    ]
    dead = [row for row in run.rows if row.request == 1]
    assert cancel == Cancel((), (run.run_id,), (RequestId(1),), tuple(row.node for row in dead))


def test_guesses_leave_room_for_prompts() -> None:
    """Where rows are free, drafts fill every run; who comes later is read all the same."""
    study = Study(4, acceptance=Acceptance((0.9,)), num_tokens=40, num_requests=32)
    answers = answers_of("auto", study)
    assert max(answer.times[0] for answer in answers) < min(answer.times[-1] for answer in answers)
