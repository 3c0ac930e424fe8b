"""The engine between threads and the driver: what it refuses, what it hands on, what it remembers."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest

from mpispec.core.effects import Emit, Origin
from mpispec.core.events import Event, StopRequested, Submitted, Withdrawn
from mpispec.core.ids import RequestId, Token
from mpispec.core.messages import Sampling
from mpispec.core.statistics import RunCounts, Statistics
from mpispec.core.tree import BY_DRAFT
from mpispec.runtime.engine import Engine, EngineStopped, Generation, Progress
from mpispec.runtime.rank_work import RankWork
from mpispec.runtime.text_promise import TextPromise

pytestmark = pytest.mark.unit


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def engine(events: list[Event]) -> Engine:
    engine = Engine(
        16, 100, frozenset({2}), ("plain", "pipeinfer"), ("none", "ngram"), "pipeinfer", "ngram", TextPromise()
    )
    engine.attach(events.append)
    return engine


def _tokens(*tokens: int) -> tuple[Token, ...]:
    return tuple(Token(token) for token in tokens)


def test_a_generation_becomes_an_event_with_the_defaults(engine: Engine, events: list[Event]) -> None:
    request = engine.submit(Generation((1, 3), 5), lambda progress: None)
    (submitted,) = events
    assert isinstance(submitted, Submitted)
    assert (submitted.request, submitted.prompt, submitted.strategy, submitted.drafter) == (
        request,
        (1, 3),
        "pipeinfer",
        "ngram",
    )
    assert submitted.stops == {2}


def test_a_timeout_becomes_a_deadline_on_the_clock_of_the_driver(engine: Engine, events: list[Event]) -> None:
    before = time.monotonic()
    engine.submit(Generation((1,), 5, priority=-2, timeout_s=60.0), lambda progress: None)
    (submitted,) = events
    assert isinstance(submitted, Submitted)
    assert submitted.priority == -2
    assert submitted.deadline is not None
    assert before + 60 <= submitted.deadline <= time.monotonic() + 60


def test_plain_needs_no_drafter(engine: Engine, events: list[Event]) -> None:
    engine.submit(Generation((1,), 5, strategy="plain", drafter="ngram"), lambda progress: None)
    assert isinstance(events[0], Submitted)
    assert events[0].drafter == "none"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"prompt": ()}, "empty"),
        ({"prompt": (1,) * 16}, "context 16"),
        ({"prompt": (100,)}, "vocabulary"),
        ({"max_tokens": -1}, "at least 0"),
        ({"strategy": "magic"}, "choose one of plain, pipeinfer"),
        ({"drafter": "draft"}, "choose one of none, ngram"),
        ({"priority": -1001}, "priority must be from -1000 to 1000"),
        ({"timeout_s": 0.0}, "timeout must be above 0"),
        ({"timeout_s": math.nan}, "timeout must be above 0"),
        ({"sampling": Sampling(top_k=2**31)}, "top_k must be from 0 to 2147483647"),
        ({"sampling": Sampling(temperature=math.nan)}, "temperature must be from 0"),
        ({"sampling": Sampling(repeat_penalty=1e-40)}, "repeat_penalty must be from 0.01"),
        ({"sampling": Sampling(seed=-1)}, "seed must be from 0"),
        ({"sampling": Sampling(presence_penalty=math.nan)}, "presence_penalty must be from -100"),
        ({"sampling": Sampling(logit_bias=((Token(100), 1.0),))}, "logit_bias has a token id outside"),
        ({"sampling": Sampling(logit_bias=((Token(1), math.nan),))}, "logit_bias may have 512 entries"),
        ({"sampling": Sampling(logit_bias=((Token(1), 1.0),) * 513)}, "logit_bias may have 512 entries"),
        ({"stop_token_ids": (100,)}, "stop_token_ids has a token id outside"),
        ({"stop_token_ids": (1,) * 257}, "stop_token_ids may have 256 entries"),
        ({"min_tokens": 4}, "min_tokens must be from 0 to max_tokens, which is 3"),
    ],
)
def test_what_cannot_run_is_refused_with_a_sentence(
    engine: Engine, events: list[Event], changes: dict[str, Any], word: str
) -> None:
    with pytest.raises(ValueError, match=word):
        engine.submit(Generation(**{"prompt": (1,), "max_tokens": 3, **changes}), lambda progress: None)
    assert not events


def test_tokens_reach_their_listener_and_the_report_adds_up(engine: Engine) -> None:
    received: list[Progress] = []
    request = RequestId(engine.submit(Generation((1, 3), 5), received.append))
    statistics = Statistics(began=1.0, drafted=4, accepted=2, verified=4, runs=6, cancelled_runs=1)
    engine.emitted(Emit(request, _tokens(7), None, statistics), 2.0)
    engine.emitted(Emit(request, _tokens(8, 2), "stop", statistics), 2.5)
    assert [progress.tokens for progress in received] == [(7,), (8, 2)]
    assert received[-1].finish == "stop"
    report = engine.report(request)
    assert report["tokens"] == 3
    assert report["timing"]["prefill_s"] == 1.0
    assert report["timing"]["tokens_per_s"] == 4.0
    assert report["timing"]["itl_ms"] == {"p50": 0.0, "p95": 500.0}
    assert report["speculation"]["acceptance_rate"] == 0.5
    assert engine.stats()["tokens"] == 3


def test_progress_says_where_tokens_came_from_where_that_was_asked(engine: Engine) -> None:
    received: list[Progress] = []
    origins = (Origin(BY_DRAFT), Origin(0, _tokens(5)))
    for is_traced in (False, True):
        request = RequestId(engine.submit(Generation((1, 3), 5, is_traced=is_traced), received.append))
        engine.emitted(Emit(request, _tokens(7, 8), "length", Statistics(), origins), 2.0)
    assert [progress.origins for progress in received] == [(), origins]


def test_withdrawing_an_ended_request_does_nothing(engine: Engine, events: list[Event]) -> None:
    request = RequestId(engine.submit(Generation((1,), 5), lambda progress: None))
    engine.withdraw(request)
    engine.emitted(Emit(request, (), "cancelled", None), 1.0)
    engine.withdraw(request)
    assert [type(event) for event in events] == [Submitted, Withdrawn]


def test_after_a_stop_nothing_is_taken(engine: Engine, events: list[Event]) -> None:
    engine.stop()
    engine.stop()
    assert [type(event) for event in events] == [StopRequested]
    assert not engine.is_running
    with pytest.raises(EngineStopped):
        engine.submit(Generation((1,), 5), lambda progress: None)


def test_a_job_that_goes_down_ends_open_requests(engine: Engine) -> None:
    received: list[Progress] = []
    engine.submit(Generation((1,), 5), received.append)
    engine.fail()
    assert [progress.finish for progress in received] == ["cancelled"]


def test_totals_survive_forgotten_reports(engine: Engine) -> None:
    for _ in range(400):
        request = RequestId(engine.submit(Generation((1,), 5), lambda progress: None))
        engine.emitted(Emit(request, _tokens(2), "stop", Statistics(runs=2)), 1.0)
    assert engine.stats()["runs"] == 800


def test_acceptance_is_counted_by_drafter_and_in_all(engine: Engine) -> None:
    for drafter, accepted in (("ngram", 3), ("none", 0), ("ngram", 1)):
        request = RequestId(engine.submit(Generation((1, 3), 5, drafter=drafter), lambda progress: None))
        statistics = Statistics(began=0.0, cached=1, drafted=9, accepted=accepted, verified=4, cancelled_rows=5)
        engine.emitted(Emit(request, _tokens(2), "stop", statistics), 1.0)
    engine.submit(Generation((1, 3), 5), lambda progress: None)
    stats = engine.stats()
    assert stats["drafters"]["ngram"] == {"drafted": 18, "accepted": 4, "verified": 8, "acceptance_rate": 0.5}
    assert set(stats["drafters"]) == {"ngram", "none"}
    assert (stats["accepted"], stats["verified"], stats["cancelled_rows"]) == (4, 12, 15)
    assert (stats["prompt_tokens"], stats["cached_tokens"]) == (6, 3), "of requests that have begun"


def test_ranks_are_described_by_what_they_hold_and_what_they_did(engine: Engine) -> None:
    class Counted:
        dispatched = RunCounts(runs=3)

        def work(self) -> dict[int, RankWork]:
            return {1: RankWork(0.25, (7, 0, 0)), 0: RankWork(1.0000004, (0, 9, 0))}

        def occupancy(self) -> dict[str, int]:
            return {"running": 2}

    engine.attach(lambda event: None, Counted())
    engine.places = tuple({"host": host, "roles": [], "layers": []} for host in "abc")
    assert engine.ranks() == {
        0: {"host": "a", "roles": [], "layers": [], "busy_s": 1.0, "sent": [0, 9, 0]},
        1: {"host": "b", "roles": [], "layers": [], "busy_s": 0.25, "sent": [7, 0, 0]},
    }
    stats = engine.stats()
    assert (stats["now"], stats["dispatched"]["runs"]) == ({"running": 2}, 3)


def test_the_report_of_long_ago_is_empty(engine: Engine) -> None:
    for _ in range(400):
        request = RequestId(engine.submit(Generation((1,), 5), lambda progress: None))
        engine.emitted(Emit(request, _tokens(2), "stop", Statistics()), 1.0)
    assert engine.report(0) == {}
    assert engine.report(request)["tokens"] == 1


def _placed(engine: Engine, events: list[Event], **wanted: Any) -> Submitted:
    """Return what the head is told of a generation with a prompt of two tokens."""
    engine.submit(Generation((1, 3), 5, **wanted), lambda progress: None)
    assert isinstance(events[-1], Submitted)
    return events[-1]


def test_the_head_learns_where_the_answer_begins_and_what_ends_it(engine: Engine, events: list[Event]) -> None:
    submitted = _placed(engine, events, sampling=Sampling(presence_penalty=1.0), stop_token_ids=(7,))
    assert submitted.sampling == Sampling(presence_penalty=1.0, begins=2)
    assert submitted.stops == {2, 7}


def test_no_end_is_chosen_before_its_time(engine: Engine, events: list[Event]) -> None:
    sampling = _placed(engine, events, min_tokens=3, stop_token_ids=(7,)).sampling
    assert (sampling.held, sampling.held_to) == ((2, 7), 5)


def test_an_end_that_is_ignored_is_never_chosen_but_tokens_of_ones_own_still_end_the_answer(
    engine: Engine, events: list[Event]
) -> None:
    submitted = _placed(
        engine, events, sampling=Sampling(logit_bias=((Token(4), 1.0),)), ignore_eos=True, stop_token_ids=(7,)
    )
    assert submitted.sampling.logit_bias == ((4, 1.0), (2, -1e6))
    assert 7 in submitted.stops
