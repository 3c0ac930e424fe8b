"""Every event in every state is either handled or refused; nothing is swallowed and no invariant breaks."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpispec.core.effects import Compute, Send
from mpispec.core.events import Computed, Event, ProtocolError, Received
from mpispec.core.ids import HEAD, Actor, NodeId, Pos, RequestId, RunId, SeqId, Token
from mpispec.core.messages import Cancel, Close, Credit, Draft, Idle, Open, Result, Row, Run, Sampling, Stop
from mpispec.core.stage import StageCore

pytestmark = pytest.mark.protocol

RUN_IDS = st.integers(0, 6).map(RunId)
ROW = Row(RequestId(0), NodeId(0), NodeId(-1), Token(1), Pos(0), SeqId(0), True)


def _events() -> st.SearchStrategy[Event]:
    runs = st.builds(lambda run_id, void: Run(run_id, () if void else (ROW,), (), void), RUN_IDS, st.booleans())
    cancels = st.lists(RUN_IDS, max_size=4).map(lambda run_ids: Cancel(tuple(run_ids)))
    strangers = st.sampled_from(
        [
            Open(RequestId(0), Sampling(), Pos(0), ()),
            Close(RequestId(0)),
            Stop(),
            Credit(RunId(0)),
            Idle(RunId(0)),
            Result(RunId(0), (), (), ()),
            Draft(RequestId(0), Pos(0), 0, (), (), ()),
        ]
    )
    received = st.one_of(runs, runs, cancels, strangers).map(lambda message: Received(HEAD, message))
    computed = st.builds(lambda run_id, aborted: Computed(run_id, b"", (), aborted), RUN_IDS, st.booleans())
    return st.one_of(received, received, computed)


@given(events=st.lists(_events(), max_size=40), actor=st.integers(1, 3))
@settings(max_examples=400, deadline=None, derandomize=True)
def test_a_stage_handles_or_refuses_and_answers_each_run_once(events: list[Event], actor: int) -> None:
    stage = StageCore(Actor(actor), 3, queue_limit=8)
    taken: list[int] = []
    answered: list[int] = []
    computing: int | None = None
    for event in events:
        try:
            effects = stage.handle(event, 0.0)
        except ProtocolError:
            return  # the job ends here; with a message
        stage.check()
        if isinstance(event, Received) and isinstance(event.message, Run):
            taken.append(event.message.run_id)
        if isinstance(event, Computed):
            assert computing == event.run_id, "a completion of something that did not compute was accepted"
            computing = None
        for effect in effects:
            if isinstance(effect, Send) and isinstance(effect.message, Run | Result):
                answered.append(effect.message.run_id)
            if isinstance(effect, Compute):
                assert computing is None, "two runs compute at once"
                computing = effect.run.run_id
        assert answered == taken[: len(answered)], "runs leave in another order than they came, or twice"
